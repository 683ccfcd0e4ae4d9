// A compiled net, loaded into TVM's virtual machine and ready to be called.
#ifndef TVMFBNET_DEVICE_RUNNER_NET_H_
#define TVMFBNET_DEVICE_RUNNER_NET_H_

#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>
#include <tvm/runtime/tensor.h>

#include <vector>

#include "package.h"

namespace tvmfbnet {

class Net {
 public:
  explicit Net(const Package& package);

  // Copies the input to the device.
  void set_input(const std::vector<char>& bytes);
  // One inference; returns when the device is done.
  void call();
  // The last call's outputs in order, raw; all of the input's type.
  std::vector<std::vector<char>> outputs() const;

 private:
  Package package_;
  DLDevice device_;
  tvm::ffi::Module machine_;
  tvm::ffi::Function main_;
  tvm::runtime::Tensor input_;
  std::vector<tvm::runtime::Tensor> outputs_;
};

}  // namespace tvmfbnet

#endif  // TVMFBNET_DEVICE_RUNNER_NET_H_
