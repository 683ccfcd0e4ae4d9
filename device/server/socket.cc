#include "socket.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <memory>

#include "../common/options.h"

namespace tvmfbnet {
namespace {

using Clock = std::chrono::steady_clock;

Clock::time_point after(double seconds) {
  return Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

bool wait_for(int fd, short events, Clock::time_point deadline) {
  while (true) {
    auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
    if (left <= 0) return false;
    pollfd entry{fd, events, 0};
    int ready = poll(&entry, 1, static_cast<int>(left));
    if (ready > 0) return true;
    if (ready < 0 && errno != EINTR) return false;
  }
}

std::shared_ptr<addrinfo> resolve(const std::string& host, int port, bool passive) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = passive ? AI_PASSIVE : 0;
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found) != 0) return nullptr;
  return std::shared_ptr<addrinfo>(found, freeaddrinfo);
}

}  // namespace

Socket& Socket::operator=(Socket&& other) noexcept {
  reset();
  fd_ = other.release();
  return *this;
}

int Socket::release() {
  int fd = fd_;
  fd_ = -1;
  return fd;
}

void Socket::reset() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

Socket connect_to(const std::string& host, int port, double seconds) {
  auto address = resolve(host, port, false);
  if (!address) return Socket();
  Socket result(socket(address->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!result.open()) return result;
  if (connect(result.fd(), address->ai_addr, address->ai_addrlen) != 0) {
    int error = errno;
    socklen_t size = sizeof(error);
    if (error != EINPROGRESS || !wait_for(result.fd(), POLLOUT, after(seconds)) ||
        getsockopt(result.fd(), SOL_SOCKET, SO_ERROR, &error, &size) != 0 || error != 0) {
      return Socket();
    }
  }
  return result;
}

bool send_all(int fd, const void* data, size_t size, double seconds) {
  auto deadline = after(seconds);
  const char* next = static_cast<const char*>(data);
  while (size > 0) {
    ssize_t sent = send(fd, next, size, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent > 0) {
      next += sent;
      size -= static_cast<size_t>(sent);
    } else if (sent == 0 || (errno != EAGAIN && errno != EINTR) || !wait_for(fd, POLLOUT, deadline)) {
      return false;
    }
  }
  return true;
}

bool receive_all(int fd, void* data, size_t size, double seconds) {
  auto deadline = after(seconds);
  char* next = static_cast<char*>(data);
  while (size > 0) {
    ssize_t got = recv(fd, next, size, MSG_DONTWAIT);
    if (got > 0) {
      next += got;
      size -= static_cast<size_t>(got);
    } else if (got == 0 || (errno != EAGAIN && errno != EINTR) || !wait_for(fd, POLLIN, deadline)) {
      return false;
    }
  }
  return true;
}

bool send_int(int fd, int32_t value, double seconds) { return send_all(fd, &value, sizeof(value), seconds); }
bool receive_int(int fd, int32_t* value, double seconds) { return receive_all(fd, value, sizeof(*value), seconds); }

bool send_text(int fd, const std::string& text, double seconds) {
  return send_int(fd, static_cast<int32_t>(text.size()), seconds) && send_all(fd, text.data(), text.size(), seconds);
}

bool receive_text(int fd, std::string* text, int32_t limit, double seconds) {
  int32_t size = 0;
  if (!receive_int(fd, &size, seconds) || size < 0 || size > limit) return false;
  text->assign(static_cast<size_t>(size), '\0');
  return receive_all(fd, text->data(), text->size(), seconds);
}

Socket listen_at(const std::string& host, int port, int port_end, int* bound) {
  std::string reason = "the address is unknown";
  for (int candidate = port; candidate <= std::max(port, port_end); ++candidate) {
    auto address = resolve(host, candidate, true);
    if (!address) break;
    Socket result(socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    int yes = 1;
    setsockopt(result.fd(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
    if (bind(result.fd(), address->ai_addr, address->ai_addrlen) == 0 && listen(result.fd(), 16) == 0) {
      sockaddr_storage name{};
      socklen_t size = sizeof(name);
      getsockname(result.fd(), reinterpret_cast<sockaddr*>(&name), &size);
      *bound = ntohs(name.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&name)->sin6_port
                                                : reinterpret_cast<sockaddr_in*>(&name)->sin_port);
      return result;
    }
    reason = std::strerror(errno);
  }
  throw UsageError("cannot listen on " + host + ":" + std::to_string(port) + ": " + reason);
}

}  // namespace tvmfbnet
