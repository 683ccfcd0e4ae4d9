// Device plugins: shared libraries beside the program that add a kind of device to TVM's runtime (OpenCL).
#ifndef TVMFBNET_DEVICE_COMMON_PLUGINS_H_
#define TVMFBNET_DEVICE_COMMON_PLUGINS_H_

namespace tvmfbnet {

// Loads the plugins that lie beside this program; one that does not load is logged and left out.
void load_plugins();

}  // namespace tvmfbnet

#endif  // TVMFBNET_DEVICE_COMMON_PLUGINS_H_
