// This server's side of TVM's tracker protocol: say who we are, offer ourselves, and come back when the tracker does.
#ifndef TVMFBNET_DEVICE_SERVER_TRACKER_H_
#define TVMFBNET_DEVICE_SERVER_TRACKER_H_

#include <string>

#include "socket.h"

namespace tvmfbnet {

class Tracker {
 public:
  // `address` and `port` are where clients reach this server, as the tracker tells them.
  Tracker(std::string host, int tracker_port, std::string key, std::string address, int port);

  bool connected() const { return socket_.open(); }
  // One try of a few seconds; a change (lost, found again) is logged once.
  void connect();
  // Puts this server into the queue of its key, under a fresh match key that the next client must show.
  bool offer();
  // Asks whether the offer still stands; after several rounds without a client it is made anew.
  bool refresh_offer();
  // The offer was taken or is void: a session runs.
  void withdraw() { match_key_.clear(); }
  bool offered() const { return !match_key_.empty(); }
  const std::string& match_key() const { return match_key_; }

 private:
  bool request(const std::string& message, std::string* answer);
  bool expect_success(const std::string& message);
  void lost(const std::string& why);

  std::string host_, key_, address_, match_key_;
  int tracker_port_, port_;
  int taken_rounds_ = 0;
  bool reported_lost_ = false;
  Socket socket_;
};

}  // namespace tvmfbnet

#endif  // TVMFBNET_DEVICE_SERVER_TRACKER_H_
