// What a session's client may do with files: plain names inside the session's own folder, and nothing else.
#ifndef TVMFBNET_DEVICE_SERVER_WORKSPACE_H_
#define TVMFBNET_DEVICE_SERVER_WORKSPACE_H_

#include <functional>
#include <string>

namespace tvmfbnet {

// Registers the functions that TVM's RPC clients call for files, `tvmfbnet.device.info` (with `max_seconds`, the longest
// session that this server allows) and `tvmfbnet.device.last_fault`. In the session's process.
void register_workspace(const std::string& folder, double max_seconds, std::function<std::string()> last_fault);

}  // namespace tvmfbnet

#endif  // TVMFBNET_DEVICE_SERVER_WORKSPACE_H_
