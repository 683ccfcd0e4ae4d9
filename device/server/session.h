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

// A session that a signal ended: which, whose session, when.
struct Fault {
  int signal = 0;
  std::string peer;
  std::chrono::steady_clock::time_point when;

  // "signal 4 (illegal instruction)"
  std::string text() const;
  // As JSON, with its age in seconds; empty when there was no fault.
  std::string json() const;
};

class Session {
 public:
  // Starts the child. `folder` is where session folders are made; `max_seconds` limits what clients ask for;
  // `last_fault` is what the session tells its client when asked.
  Session(Client client, const std::string& folder, double max_seconds, const Fault& last_fault);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // Whether the child has ended; logs how. Where a signal ended it, the client is told and `fault` filled in.
  bool ended(Fault* fault);
  double seconds_left() const;
  // Kills the child and tells the client why.
  void expire();

 private:
  void kill_child();
  void tell_client(const std::string& message);

  Client client_;
  std::string folder_;
  double seconds_;
  std::chrono::steady_clock::time_point started_;
  pid_t child_ = -1;
};

}  // namespace tvmfbnet

#endif  // TVMFBNET_DEVICE_SERVER_SESSION_H_
