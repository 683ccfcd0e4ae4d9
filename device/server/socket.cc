#include "socket.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "../common/options.h"

namespace tvmfbnet {
namespace {

constexpr int kBacklog = 128;

int port_of(const sockaddr_storage& address) {
  return ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<const sockaddr_in6&>(address).sin6_port
                                             : reinterpret_cast<const sockaddr_in&>(address).sin_port);
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

std::vector<Address> resolve(const std::string& host, int port, bool passive) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = passive ? AI_PASSIVE : 0;
  addrinfo* found = nullptr;
  std::vector<Address> result;
  if (getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found) != 0) return result;
  for (const addrinfo* item = found; item != nullptr; item = item->ai_next) {
    if (item->ai_addrlen > sizeof(sockaddr_storage)) continue;
    Address address;
    std::memcpy(&address.storage, item->ai_addr, item->ai_addrlen);
    address.size = item->ai_addrlen;
    result.push_back(address);
  }
  freeaddrinfo(found);
  return result;
}

std::string address_text(const std::string& host, int port) {
  return (host.find(':') == std::string::npos ? host : "[" + host + "]") + ":" + std::to_string(port);
}

std::string address_text(const sockaddr_storage& address) {
  char text[INET6_ADDRSTRLEN] = "?";
  const void* binary = address.ss_family == AF_INET6
                           ? static_cast<const void*>(&reinterpret_cast<const sockaddr_in6&>(address).sin6_addr)
                           : &reinterpret_cast<const sockaddr_in&>(address).sin_addr;
  inet_ntop(address.ss_family, binary, text, sizeof(text));
  return address_text(text, port_of(address));
}

Socket start_connecting(const Address& address) {
  Socket result(socket(address.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!result.open()) return result;
  if (connect(result.fd(), reinterpret_cast<const sockaddr*>(&address.storage), address.size) != 0 &&
      errno != EINPROGRESS) {
    return Socket();
  }
  return result;
}

int connect_error(int fd) {
  int error = 0;
  socklen_t size = sizeof(error);
  return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 ? error : errno;
}

Transfer receive_some(int fd, std::string* data, size_t limit) {
  char bytes[4096];
  ssize_t got = recv(fd, bytes, std::min(limit, sizeof(bytes)), MSG_DONTWAIT);
  if (got > 0) {
    data->append(bytes, static_cast<size_t>(got));
    return Transfer::kSome;
  }
  return got < 0 && (errno == EAGAIN || errno == EINTR) ? Transfer::kNothing : Transfer::kEnd;
}

Transfer send_some(int fd, std::string* data) {
  ssize_t sent = send(fd, data->data(), data->size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  if (sent >= 0) {
    data->erase(0, static_cast<size_t>(sent));
    return Transfer::kSome;
  }
  return errno == EAGAIN || errno == EINTR ? Transfer::kNothing : Transfer::kEnd;
}

std::string encode_int(int32_t value) { return std::string(reinterpret_cast<const char*>(&value), sizeof(value)); }

int32_t decode_int(const char* bytes) {
  int32_t value = 0;
  std::memcpy(&value, bytes, sizeof(value));
  return value;
}

std::string encode_text(const std::string& text) { return encode_int(static_cast<int32_t>(text.size())) + text; }

Socket listen_at(const std::string& host, int port, int port_end, int* bound) {
  std::string reason = "the address is unknown";
  for (int candidate = port; candidate <= port_end; ++candidate) {
    for (const Address& address : resolve(host, candidate, true)) {
      Socket result(socket(address.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
      int yes = 1;
      setsockopt(result.fd(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
      if (result.open() && bind(result.fd(), reinterpret_cast<const sockaddr*>(&address.storage), address.size) == 0 &&
          listen(result.fd(), kBacklog) == 0) {
        sockaddr_storage name{};
        socklen_t size = sizeof(name);
        getsockname(result.fd(), reinterpret_cast<sockaddr*>(&name), &size);
        *bound = port_of(name);
        return result;
      }
      reason = std::strerror(errno);
    }
  }
  throw UsageError("cannot listen on " + address_text(host, port) + ": " + reason);
}

}  // namespace tvmfbnet
