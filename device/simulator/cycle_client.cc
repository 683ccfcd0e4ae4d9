#include "cycle_client.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <stdexcept>

namespace tvmfbnet::simulator {
namespace {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "numbers are sent as they lie in memory");

// The descriptor is in use for one request only: the program inside shares our descriptors, and closes which it likes.
class Connection {
 public:
  explicit Connection(const std::string& path) : path_(path), fd_(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof(address.sun_path)) throw std::runtime_error("the path of the cycle server is too long: " + path);
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    if (fd_ < 0 || connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) fail();
  }
  ~Connection() {
    if (fd_ >= 0) close(fd_);
  }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  void send_all(const std::string& bytes) {
    for (size_t sent = 0; sent < bytes.size();) {
      ssize_t n = send(fd_, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) fail();
      sent += static_cast<size_t>(n);
    }
  }

  void receive_all(void* to, size_t size) {
    for (size_t got = 0; got < size;) {
      ssize_t n = recv(fd_, static_cast<char*>(to) + got, size - got, 0);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) fail();
      got += static_cast<size_t>(n);
    }
  }

 private:
  [[noreturn]] void fail() { throw std::runtime_error("the cycle server at " + path_ + " does not answer"); }

  std::string path_;
  int fd_;
};

void append(std::string* bytes, uint32_t number) { bytes->append(reinterpret_cast<const char*>(&number), sizeof(number)); }

}  // namespace

std::vector<double> ask_cycles(const std::string& path, const std::vector<std::string>& blocks) {
  std::string request;
  append(&request, static_cast<uint32_t>(blocks.size()));
  for (const std::string& block : blocks) {
    append(&request, static_cast<uint32_t>(block.size()));
    request += block;
  }
  Connection connection(path);
  connection.send_all(request);
  std::vector<double> answer(blocks.size());
  connection.receive_all(answer.data(), answer.size() * sizeof(double));
  return answer;
}

}  // namespace tvmfbnet::simulator
