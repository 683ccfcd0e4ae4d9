// TCP with a deadline on everything, and the framing of TVM's RPC handshake (little-endian int32, then bytes).
#ifndef TVMFBNET_DEVICE_SERVER_SOCKET_H_
#define TVMFBNET_DEVICE_SERVER_SOCKET_H_

#include <cstdint>
#include <string>

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

// Each returns false (or a closed socket) on failure or when `seconds` are over.
Socket connect_to(const std::string& host, int port, double seconds);
bool send_all(int fd, const void* data, size_t size, double seconds);
bool receive_all(int fd, void* data, size_t size, double seconds);
bool send_int(int fd, int32_t value, double seconds);
bool receive_int(int fd, int32_t* value, double seconds);
bool send_text(int fd, const std::string& text, double seconds);
bool receive_text(int fd, std::string* text, int32_t limit, double seconds);

// Listens at the first free port from `port` to `port_end`; `*bound` is that port. UsageError when there is none.
Socket listen_at(const std::string& host, int port, int port_end, int* bound);

}  // namespace tvmfbnet

#endif  // TVMFBNET_DEVICE_SERVER_SOCKET_H_
