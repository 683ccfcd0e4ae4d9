// TVM's handshakes of fresh connections: any number at once, none waited for, each with a deadline for all of it.
#ifndef TVMFBNET_DEVICE_SERVER_HANDSHAKE_H_
#define TVMFBNET_DEVICE_SERVER_HANDSHAKE_H_

#include <poll.h>

#include <chrono>
#include <list>
#include <optional>
#include <string>
#include <vector>

#include "session.h"
#include "socket.h"

namespace tvmfbnet {

class Handshakes {
 public:
  using Clock = std::chrono::steady_clock;

  // `key` is what this server serves.
  explicit Handshakes(std::string key) : key_(std::move(key)) {}

  // Takes a fresh connection; where there are too many, the oldest one goes.
  void add(Socket connection, const sockaddr_storage& peer);
  // Turns the oldest one away; false when there is none.
  bool drop_oldest();
  // What to poll, appended to `entries`; `serve` reads the answers at the same place.
  void watch(std::vector<pollfd>* entries) const;
  // Reads what arrived. Whoever showed `match_key` (empty: nobody can) becomes the client; a stranger, someone with
  // another key, or someone too slow is turned away with a log line.
  std::optional<Client> serve(const pollfd* entries, const std::string& match_key);
  // Turns away those whose time is up.
  void expire();
  // When the next one's time is up; far away when there is none.
  Clock::time_point deadline() const;

 private:
  struct Pending {
    Socket socket;
    std::string peer, received;
    Clock::time_point deadline;
  };
  enum class Step { kWait, kDrop, kDone };

  Step read(Pending* pending);
  std::optional<Client> judge(Pending* pending, const std::string& match_key);

  std::string key_;
  std::list<Pending> pending_;  // the oldest first
};

}  // namespace tvmfbnet

#endif  // TVMFBNET_DEVICE_SERVER_HANDSHAKE_H_
