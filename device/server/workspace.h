// What a session's client may do with files: plain names inside the session's own folder, and nothing else.
#ifndef TVMFBNET_DEVICE_SERVER_WORKSPACE_H_
#define TVMFBNET_DEVICE_SERVER_WORKSPACE_H_

#include <string>

namespace tvmfbnet {

// Registers the functions that TVM's RPC clients call for files, and `tvmfbnet.device.info`. In the session's process.
void register_workspace(const std::string& folder);

}  // namespace tvmfbnet

#endif  // TVMFBNET_DEVICE_SERVER_WORKSPACE_H_
