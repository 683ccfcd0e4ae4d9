#include "tracker.h"

#include <cstdio>
#include <random>
#include <utility>

#include "../common/info.h"
#include "../common/log.h"

namespace tvmfbnet {
namespace {

constexpr int32_t kTrackerMagic = 0x2F271;
constexpr int32_t kAnswerLimit = 1 << 24;
constexpr double kSeconds = 5;
// Rounds in which the tracker had given our match key away and nobody came, before a new one is offered.
constexpr int kTakenRounds = 3;

// Message codes of TVM's tracker.
constexpr const char* kSuccess = "0";
constexpr const char* kPut = "3";
constexpr const char* kUpdateInfo = "5";
constexpr const char* kPendingMatchKeys = "7";

std::string random_match_key(const std::string& key) {
  static std::random_device source;
  char digits[24];
  std::snprintf(digits, sizeof(digits), "%08x%08x", source(), source());
  return key + ":" + digits;
}

}  // namespace

Tracker::Tracker(std::string host, int tracker_port, std::string key, std::string address, int port)
    : host_(std::move(host)),
      key_(std::move(key)),
      address_(std::move(address)),
      tracker_port_(tracker_port),
      port_(port) {}

void Tracker::connect() {
  socket_ = connect_to(host_, tracker_port_, kSeconds);
  int32_t magic = 0;
  if (!socket_.open()) return lost("does not answer");
  if (!send_int(socket_.fd(), kTrackerMagic, kSeconds) || !receive_int(socket_.fd(), &magic, kSeconds)) {
    return lost("accepts connections but says nothing");
  }
  if (magic != kTrackerMagic) return lost("is no tracker");
  std::string place = "[" + json_quote(address_) + ", " + std::to_string(port_) + "]";
  std::string info = "{\"key\": " + json_quote("server:" + key_) + ", \"addr\": " + place + "}";
  if (!expect_success(std::string("[") + kUpdateInfo + ", " + info + "]")) return;
  log_info("registered with tracker " + host_ + ":" + std::to_string(tracker_port_) + " under key " + key_);
  reported_lost_ = false;
}

bool Tracker::offer() {
  match_key_ = random_match_key(key_);
  taken_rounds_ = 0;
  std::string value = "[" + std::to_string(port_) + ", " + json_quote(match_key_) + "]";
  return expect_success(std::string("[") + kPut + ", " + json_quote(key_) + ", " + value + ", " +
                        json_quote(address_) + "]");
}

bool Tracker::refresh_offer() {
  std::string pending;
  if (!request(std::string("[") + kPendingMatchKeys + "]", &pending)) return false;
  if (!offered() || pending.find(json_quote(match_key_)) != std::string::npos) {
    taken_rounds_ = 0;
    return true;
  }
  if (++taken_rounds_ < kTakenRounds) return true;
  log_warning("a client was sent here and did not come; offering this device anew");
  return offer();
}

bool Tracker::request(const std::string& message, std::string* answer) {
  if (send_text(socket_.fd(), message, kSeconds) && receive_text(socket_.fd(), answer, kAnswerLimit, kSeconds)) {
    return true;
  }
  lost("closed the connection or does not answer");
  return false;
}

bool Tracker::expect_success(const std::string& message) {
  std::string answer;
  if (!request(message, &answer)) return false;
  if (answer == kSuccess) return true;
  lost("refused this server: " + printable(answer));
  return false;
}

void Tracker::lost(const std::string& why) {
  socket_.reset();
  match_key_.clear();
  if (!reported_lost_) {
    log_warning("tracker " + host_ + ":" + std::to_string(tracker_port_) + " " + why + "; trying again every second");
  }
  reported_lost_ = true;
}

}  // namespace tvmfbnet
