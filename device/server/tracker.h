// This server's side of TVM's tracker protocol: say who we are, offer ourselves, and come back when the tracker does.
// Nothing here waits: the server's loop polls the connection, and a tracker that is frozen or hostile holds nobody up.
#ifndef TVMFBNET_DEVICE_SERVER_TRACKER_H_
#define TVMFBNET_DEVICE_SERVER_TRACKER_H_

#include <poll.h>

#include <chrono>
#include <string>
#include <vector>

#include "socket.h"

namespace tvmfbnet {

class Tracker {
 public:
  using Clock = std::chrono::steady_clock;

  // `address` and `port` are where clients reach this server, as the tracker tells them.
  Tracker(std::string host, int tracker_port, std::string key, std::string address, int port);

  // What to poll for; the descriptor is -1 while there is no connection.
  pollfd watched() const;
  // Moves on: `events` are what the poll found, `free` whether this device can take a client.
  void step(short events, bool free);
  // When `step` has something to do even if nothing arrives.
  Clock::time_point deadline() const { return deadline_; }

  // The offer was taken or is void: a session runs.
  void withdraw() { match_key_.clear(); }
  // What the next client must show; empty while this server is not offered.
  const std::string& match_key() const { return match_key_; }

 private:
  enum class State { kDown, kConnecting, kMagic, kUpdate, kIdle, kOffer, kPending };

  bool offered() const { return !match_key_.empty(); }
  bool waits_for_answer() const { return state_ >= State::kMagic && state_ != State::kIdle; }
  void connect();
  void ask(State state, const std::string& message);
  void offer();
  // Sends and receives; true when a whole answer is there.
  bool exchange(short events);
  void take_answer();
  void take_pending(const std::string& pending);
  void rest();
  void lost(const std::string& why);

  std::string host_, key_, address_, match_key_;
  int tracker_port_, port_;
  int taken_rounds_ = 0;
  bool reported_lost_ = false;
  State state_ = State::kDown;
  std::vector<Address> addresses_;  // those not tried yet
  Socket socket_;
  std::string out_, in_;
  Clock::time_point deadline_{};
};

}  // namespace tvmfbnet

#endif  // TVMFBNET_DEVICE_SERVER_TRACKER_H_
