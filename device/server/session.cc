#include "session.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <tvm/ffi/function.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <sstream>
#include <utility>

#include "../common/log.h"
#include "workspace.h"

namespace tvmfbnet {
namespace {

namespace fs = std::filesystem;

constexpr int32_t kRpcMagic = 0xFF271;
constexpr int32_t kMismatch = kRpcMagic + 2;
constexpr int32_t kKeyLimit = 1024;
constexpr double kHandshakeSeconds = 3;

// A client whose machine or network vanished sends nothing, not even an end: the kernel finds out.
void keep_alive(int fd) {
  int yes = 1, idle = 15, interval = 5, count = 3;
  setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &yes, sizeof(yes));
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
}

double parse_timeout(const std::string& words) {
  std::istringstream stream(words);
  const std::string name = "-timeout=";
  for (std::string word; stream >> word;) {
    if (word.rfind(name, 0) == 0) return std::max(0.0, std::atof(word.c_str() + name.size()));
  }
  return 0;
}

std::string how_it_ended(int status) {
  if (WIFSIGNALED(status)) return "crashed: " + std::string(strsignal(WTERMSIG(status)));
  return WEXITSTATUS(status) == 0 ? "ended" : "failed with exit code " + std::to_string(WEXITSTATUS(status));
}

[[noreturn]] void serve(int fd, const std::string& folder, pid_t parent) {
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(1);
  for (int number : {SIGTERM, SIGINT, SIGHUP, SIGCHLD}) signal(number, SIG_DFL);
  // The server's listener and its line to the tracker are not the session's: they must close when the server ends.
  for (int other = 3; other < 256; ++other) {
    if (other != fd) close(other);
  }
  rlimit none{0, 0};
  setrlimit(RLIMIT_CORE, &none);
  int code = 1;
  try {
    if (chdir(folder.c_str()) != 0) throw std::runtime_error("cannot enter " + folder);
    register_workspace(folder);
    tvm::ffi::Function::GetGlobalRequired("rpc.ServerLoop")(fd);
    code = 0;
  } catch (const std::exception& error) {
    log_warning(printable(error.what(), 400));
  }
  // Not exit(): TVM's threads may still run, and a crashed driver may hang in its own clean-up.
  _exit(code);
}

}  // namespace

bool shake_hands(Socket connection, const std::string& peer, const std::string& match_key, const std::string& key,
                 Client* client) {
  int fd = connection.fd();
  int32_t magic = 0;
  std::string shown;
  if (!receive_int(fd, &magic, kHandshakeSeconds) || magic != kRpcMagic ||
      !receive_text(fd, &shown, kKeyLimit, kHandshakeSeconds)) {
    log_warning("turned away " + peer + ": not a TVM client");
    return false;
  }
  std::string first = shown.substr(0, shown.find(' '));
  if (match_key.empty() || first != "client:" + match_key) {
    send_int(fd, kMismatch, kHandshakeSeconds);
    log_warning("turned away " + peer + ": it does not hold the key that the tracker gave out");
    return false;
  }
  if (!send_int(fd, kRpcMagic, kHandshakeSeconds) || !send_text(fd, "server:" + key, kHandshakeSeconds)) return false;
  keep_alive(fd);
  client->timeout = parse_timeout(shown);
  client->peer = peer;
  client->socket = std::move(connection);
  return true;
}

Session::Session(Client client, const std::string& folder, double max_seconds)
    : client_(std::move(client)), started_(std::chrono::steady_clock::now()) {
  seconds_ = client_.timeout > 0 ? std::min(client_.timeout, max_seconds) : max_seconds;
  std::string pattern = folder + "/session-XXXXXX";
  if (mkdtemp(pattern.data()) == nullptr) {
    log_warning("cannot make a folder in " + folder + ": " + std::strerror(errno));
    return;
  }
  folder_ = pattern;
  // ServerLoop reads with plain recv(), so the socket must block.
  int fd = client_.socket.fd();
  fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
  pid_t parent = getpid();
  child_ = fork();
  if (child_ == 0) serve(fd, folder_, parent);
  if (child_ < 0) {
    log_warning(std::string("cannot start a session: ") + std::strerror(errno));
    return;
  }
  setpgid(child_, child_);
  char limit[32];
  std::snprintf(limit, sizeof(limit), "%g", seconds_);
  log_info("session of " + client_.peer + " begins, process " + std::to_string(child_) + ", at most " + limit + " s");
}

Session::~Session() {
  kill_child();
  std::error_code ignored;
  if (!folder_.empty()) fs::remove_all(folder_, ignored);
}

bool Session::ended() {
  int status = 0;
  if (child_ < 0) return true;
  if (waitpid(child_, &status, WNOHANG) != child_) return false;
  kill(-child_, SIGKILL);  // whatever the session itself started
  child_ = -1;
  std::string line = "session of " + client_.peer + " " + how_it_ended(status);
  status == 0 ? log_info(line) : log_warning(line);
  return true;
}

double Session::seconds_left() const {
  std::chrono::duration<double> passed = std::chrono::steady_clock::now() - started_;
  return seconds_ - passed.count();
}

void Session::expire() {
  log_warning("session of " + client_.peer + " took longer than its time; ending it");
  kill_child();
  int fd = client_.socket.fd();
  timeval limit{2, 0};  // a client that reads nothing must not hold us up
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
  char message[160];
  std::snprintf(message, sizeof(message), "RPCSessionTimeoutError: the session's %g s are over; the target's timeouts.session sets them",
                seconds_);
  try {
    tvm::ffi::Function::GetGlobalRequired("rpc.ReturnException")(fd, message);
  } catch (const std::exception&) {
    // The client is gone; there is nobody to tell.
  }
}

void Session::kill_child() {
  if (child_ < 0) return;
  kill(-child_, SIGKILL);
  kill(child_, SIGKILL);
  waitpid(child_, nullptr, 0);
  child_ = -1;
}

}  // namespace tvmfbnet
