#include "handshake.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <sstream>
#include <utility>

#include "../common/log.h"

namespace tvmfbnet {
namespace {

constexpr int32_t kRpcMagic = 0xFF271;
constexpr int32_t kMismatch = kRpcMagic + 2;
constexpr int32_t kKeyLimit = 1024;
constexpr size_t kHeader = 8;  // the magic number, then the size of the key
constexpr size_t kMostPending = 256;
constexpr auto kHandshake = std::chrono::seconds(3);

// A client whose machine or network vanished sends nothing, not even an end: the kernel finds out.
void keep_alive(int fd) {
  int yes = 1, idle = 15, interval = 5, count = 3;
  setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &yes, sizeof(yes));
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
}

// Seconds that the client asks for; 0 when it asks for none, or for what is no number of seconds.
double parse_timeout(const std::string& words) {
  std::istringstream stream(words);
  const std::string name = "-timeout=";
  for (std::string word; stream >> word;) {
    if (word.rfind(name, 0) != 0) continue;
    double seconds = std::atof(word.c_str() + name.size());
    return std::isfinite(seconds) && seconds > 0 ? seconds : 0;
  }
  return 0;
}

void turn_away(const std::string& peer, const std::string& reason) {
  log_limited(reason, "turned away " + peer + ": " + reason);
}

}  // namespace

void Handshakes::add(Socket connection, const sockaddr_storage& peer) {
  if (pending_.size() >= kMostPending) drop_oldest();
  fcntl(connection.fd(), F_SETFL, fcntl(connection.fd(), F_GETFL) | O_NONBLOCK);
  pending_.push_back({std::move(connection), address_text(peer), "", Clock::now() + kHandshake});
}

bool Handshakes::drop_oldest() {
  if (pending_.empty()) return false;
  turn_away(pending_.front().peer, "too many connections that say nothing");
  pending_.pop_front();
  return true;
}

void Handshakes::watch(std::vector<pollfd>* entries) const {
  for (const Pending& pending : pending_) entries->push_back({pending.socket.fd(), POLLIN, 0});
}

std::optional<Client> Handshakes::serve(const pollfd* entries, const std::string& match_key) {
  for (auto pending = pending_.begin(); pending != pending_.end(); ++entries) {
    Step step = entries->revents == 0 ? Step::kWait : read(&*pending);
    if (step == Step::kWait) {
      ++pending;
      continue;
    }
    std::optional<Client> client;
    if (step == Step::kDone) client = judge(&*pending, match_key);
    pending = pending_.erase(pending);
    if (client) return client;  // what else arrived is read in the next round
  }
  return std::nullopt;
}

// Never beyond the handshake: what follows is the session's.
Handshakes::Step Handshakes::read(Pending* pending) {
  const std::string stranger = "not a TVM client";
  while (true) {
    std::string& data = pending->received;
    size_t wanted = kHeader;
    if (data.size() >= 4 && decode_int(data.data()) != kRpcMagic) break;
    if (data.size() >= kHeader) {
      int32_t size = decode_int(data.data() + 4);
      if (size < 0 || size > kKeyLimit) break;
      wanted += static_cast<size_t>(size);
      if (data.size() == wanted) return Step::kDone;
    }
    Transfer got = receive_some(pending->socket.fd(), &data, wanted - data.size());
    if (got == Transfer::kNothing) return Step::kWait;
    if (got == Transfer::kEnd) break;
  }
  turn_away(pending->peer, stranger);
  return Step::kDrop;
}

std::optional<Client> Handshakes::judge(Pending* pending, const std::string& match_key) {
  std::string shown = pending->received.substr(kHeader);
  // The kernel's buffer of a fresh connection takes these few bytes at once, or the client is gone.
  if (match_key.empty() || shown.substr(0, shown.find(' ')) != "client:" + match_key) {
    std::string answer = encode_int(kMismatch);
    send_some(pending->socket.fd(), &answer);
    turn_away(pending->peer, "it does not hold the key that the tracker gave out");
    return std::nullopt;
  }
  std::string answer = encode_int(kRpcMagic) + encode_text("server:" + key_);
  if (send_some(pending->socket.fd(), &answer) != Transfer::kSome || !answer.empty()) return std::nullopt;
  keep_alive(pending->socket.fd());
  return Client{std::move(pending->socket), pending->peer, parse_timeout(shown)};
}

void Handshakes::expire() {
  while (!pending_.empty() && pending_.front().deadline <= Clock::now()) {
    turn_away(pending_.front().peer, "not a TVM client, or too slow a one");
    pending_.pop_front();
  }
}

Handshakes::Clock::time_point Handshakes::deadline() const {
  return pending_.empty() ? Clock::time_point::max() : pending_.front().deadline;
}

}  // namespace tvmfbnet
