#include "tracker.h"

#include <cstdio>
#include <random>
#include <utility>

#include "../common/info.h"
#include "../common/log.h"

namespace tvmfbnet {
namespace {

constexpr int32_t kTrackerMagic = 0x2F271;
constexpr int32_t kAnswerLimit = 1 << 20;
// For a whole answer, however it trickles in; between upkeeps; between tries to connect.
constexpr auto kAnswer = std::chrono::seconds(5), kUpkeep = std::chrono::seconds(2), kRetry = std::chrono::seconds(1);
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

pollfd Tracker::watched() const {
  bool sends = state_ == State::kConnecting || !out_.empty();
  return {socket_.fd(), static_cast<short>(sends ? POLLIN | POLLOUT : POLLIN), 0};
}

void Tracker::step(short events, bool free) {
  if (state_ == State::kDown) {
    if (Clock::now() >= deadline_) {
      addresses_ = resolve(host_, tracker_port_, false);
      connect();
    }
  } else if (state_ == State::kConnecting) {
    if (events != 0 && connect_error(socket_.fd()) == 0) {
      ask(State::kMagic, "");
    } else if (events != 0 || Clock::now() >= deadline_) {
      connect();
    }
  } else {
    if (events != 0 && exchange(events)) take_answer();
    if (waits_for_answer() && Clock::now() >= deadline_) {
      lost(state_ == State::kMagic ? "accepts connections but says nothing" : "does not answer");
    }
    if (state_ == State::kIdle && free && !offered()) {
      offer();
    } else if (state_ == State::kIdle && Clock::now() >= deadline_) {
      ask(State::kPending, std::string("[") + kPendingMatchKeys + "]");
    }
  }
}

// To the next address of the tracker's host.
void Tracker::connect() {
  while (true) {
    if (addresses_.empty()) return lost("does not answer");
    socket_ = start_connecting(addresses_.front());
    addresses_.erase(addresses_.begin());
    if (!socket_.open()) continue;
    state_ = State::kConnecting;
    deadline_ = Clock::now() + kAnswer;
    return;
  }
}

void Tracker::ask(State state, const std::string& message) {
  state_ = state;
  in_.clear();
  out_ = state == State::kMagic ? encode_int(kTrackerMagic) : encode_text(message);
  deadline_ = Clock::now() + kAnswer;
}

void Tracker::offer() {
  // Before it is sent: a client may come before the tracker's answer does.
  match_key_ = random_match_key(key_);
  taken_rounds_ = 0;
  std::string value = "[" + std::to_string(port_) + ", " + json_quote(match_key_) + "]";
  ask(State::kOffer, std::string("[") + kPut + ", " + json_quote(key_) + ", " + value + ", " + json_quote(address_) + "]");
}

bool Tracker::exchange(short events) {
  if (!out_.empty() && (events & (POLLOUT | POLLERR | POLLHUP)) != 0 &&
      send_some(socket_.fd(), &out_) == Transfer::kEnd) {
    lost("closed the connection");
    return false;
  }
  while ((events & (POLLIN | POLLERR | POLLHUP)) != 0) {
    size_t wanted = 4;
    if (in_.size() >= 4 && state_ != State::kMagic) {
      int32_t size = decode_int(in_.data());
      if (size < 0 || size > kAnswerLimit) {
        lost("sends what no tracker sends");
        return false;
      }
      wanted += static_cast<size_t>(size);
    }
    if (in_.size() == wanted) return waits_for_answer();
    Transfer got = receive_some(socket_.fd(), &in_, wanted - in_.size());
    if (got == Transfer::kNothing) return false;
    if (got == Transfer::kEnd || !waits_for_answer()) {  // a tracker speaks when it was asked
      lost(got == Transfer::kEnd ? "closed the connection" : "sends what no tracker sends");
      return false;
    }
  }
  return false;
}

void Tracker::take_answer() {
  if (state_ == State::kMagic) {
    if (decode_int(in_.data()) != kTrackerMagic) return lost("is no tracker");
    std::string place = "[" + json_quote(address_) + ", " + std::to_string(port_) + "]";
    std::string info = "{\"key\": " + json_quote("server:" + key_) + ", \"addr\": " + place + "}";
    return ask(State::kUpdate, std::string("[") + kUpdateInfo + ", " + info + "]");
  }
  std::string answer = in_.substr(4);
  if (state_ == State::kPending) {
    take_pending(answer);
  } else if (answer != kSuccess) {
    return lost("refused this server: " + printable(answer));
  } else if (state_ == State::kUpdate) {
    log_limited("registered",
                "registered with tracker " + address_text(host_, tracker_port_) + " under key " + key_, "info");
    reported_lost_ = false;
    rest();
  } else {
    rest();
  }
}

void Tracker::take_pending(const std::string& pending) {
  rest();
  if (!offered() || pending.find(json_quote(match_key_)) != std::string::npos) {
    taken_rounds_ = 0;
  } else if (++taken_rounds_ >= kTakenRounds) {
    log_warning("a client was sent here and did not come; offering this device again");
    offer();
  }
}

void Tracker::rest() {
  state_ = State::kIdle;
  in_.clear();
  deadline_ = Clock::now() + kUpkeep;
}

void Tracker::lost(const std::string& why) {
  socket_.reset();
  match_key_.clear();
  state_ = State::kDown;
  out_.clear();
  in_.clear();
  deadline_ = Clock::now() + kRetry;
  if (!reported_lost_) {
    log_limited("tracker lost",
                "tracker " + address_text(host_, tracker_port_) + " " + why + "; trying again every second");
  }
  reported_lost_ = true;
}

}  // namespace tvmfbnet
