// TCP without waiting: every socket here is non-blocking, and the server's one loop polls them all.
#ifndef TVMFBNET_DEVICE_SERVER_SOCKET_H_
#define TVMFBNET_DEVICE_SERVER_SOCKET_H_

#include <sys/socket.h>

#include <cstdint>
#include <string>
#include <vector>

namespace tvmfbnet {

// A file descriptor that closes itself.
class Socket {
 public:
  explicit Socket(int fd = -1) : fd_(fd) {}
  ~Socket() { reset(); }
  Socket(Socket&& other) noexcept : fd_(other.release()) {}
  Socket& operator=(Socket&& other) noexcept;
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;

  int fd() const { return fd_; }
  bool open() const { return fd_ >= 0; }
  int release();
  void reset();

 private:
  int fd_;
};

struct Address {
  sockaddr_storage storage{};
  socklen_t size = 0;
};

// All addresses of a host; none when it is unknown. `passive` for those to listen on.
std::vector<Address> resolve(const std::string& host, int port, bool passive);

// "host:port", an IPv6 address in brackets.
std::string address_text(const std::string& host, int port);
std::string address_text(const sockaddr_storage& address);

// Begins to connect; closed when that failed at once. When the socket becomes writable, `connect_error` says how it went.
Socket start_connecting(const Address& address);
// 0, or an errno.
int connect_error(int fd);

// What one call took: more bytes, nothing yet, or the end (closed by the other side, or an error).
enum class Transfer { kSome, kNothing, kEnd };
// Appends at most `limit` bytes that have arrived to `data`.
Transfer receive_some(int fd, std::string* data, size_t limit);
// Sends what the kernel takes and removes it from `data`.
Transfer send_some(int fd, std::string* data);

// A little-endian int32, as TVM's protocols have it.
std::string encode_int(int32_t value);
int32_t decode_int(const char* bytes);
// A text after its length.
std::string encode_text(const std::string& text);

// Listens at the first free port from `port` to `port_end`; `*bound` is that port. UsageError when there is none.
Socket listen_at(const std::string& host, int port, int port_end, int* bound);

}  // namespace tvmfbnet

#endif  // TVMFBNET_DEVICE_SERVER_SOCKET_H_
