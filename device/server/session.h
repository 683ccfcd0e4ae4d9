// One client's session: a child process of its own in a folder of its own, ended when its time is up.
#ifndef TVMFBNET_DEVICE_SERVER_SESSION_H_
#define TVMFBNET_DEVICE_SERVER_SESSION_H_

#include <sys/types.h>

#include <chrono>
#include <string>

#include "socket.h"

namespace tvmfbnet {

struct Client {
  Socket socket;
  std::string peer;
  // Seconds after which the session is ended; 0 when the client asked for none.
  double timeout = 0;
};

// TVM's handshake on a fresh connection. False (and a log line) for whoever is no TVM client, shows another match key,
// or takes longer than a few seconds.
bool shake_hands(Socket connection, const std::string& peer, const std::string& match_key, const std::string& key,
                 Client* client);

class Session {
 public:
  // Starts the child. `folder` is where session folders are made; `max_seconds` limits what clients ask for.
  Session(Client client, const std::string& folder, double max_seconds);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // Whether the child has ended; logs how.
  bool ended();
  double seconds_left() const;
  // Kills the child and tells the client why.
  void expire();

 private:
  void kill_child();

  Client client_;
  std::string folder_;
  double seconds_;
  std::chrono::steady_clock::time_point started_;
  pid_t child_ = -1;
};

}  // namespace tvmfbnet

#endif  // TVMFBNET_DEVICE_SERVER_SESSION_H_
