#include "session.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <tvm/ffi/function.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <utility>

#include "../common/info.h"
#include "../common/log.h"
#include "workspace.h"

namespace tvmfbnet {
namespace {

namespace fs = std::filesystem;

// Above all descriptors that the server itself opens (see handshake.cc), far below what would take long to go through.
constexpr int kDescriptors = 1024;

std::string how_it_ended(int status) {
  return WEXITSTATUS(status) == 0 ? "ended" : "failed with exit code " + std::to_string(WEXITSTATUS(status));
}

[[noreturn]] void serve(int fd, const std::string& folder, double max_seconds, const Fault& last_fault, pid_t parent) {
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(1);
  for (int number : {SIGTERM, SIGINT, SIGHUP, SIGCHLD}) signal(number, SIG_DFL);
  // The server's listener and its line to the tracker are not the session's: they must close when the server ends.
  for (int other = 3; other < kDescriptors; ++other) {
    if (other != fd) close(other);
  }
  rlimit none{0, 0};
  setrlimit(RLIMIT_CORE, &none);
  int code = 1;
  try {
    if (chdir(folder.c_str()) != 0) throw std::runtime_error("cannot enter " + folder);
    register_workspace(folder, max_seconds, [last_fault]() { return last_fault.json(); });
    tvm::ffi::Function::GetGlobalRequired("rpc.ServerLoop")(fd);
    code = 0;
  } catch (const std::exception& error) {
    log_warning(printable(error.what(), 400));
  }
  // Not exit(): TVM's threads may still run, and a crashed driver may hang in its own clean-up.
  _exit(code);
}

}  // namespace

std::string Fault::text() const {
  std::string name = strsignal(signal);
  name[0] = static_cast<char>(std::tolower(name[0]));
  const char* why = signal == SIGKILL ? "; the system does that when its memory is short" : "";
  return "signal " + std::to_string(signal) + " (" + name + why + ")";
}

std::string Fault::json() const {
  if (signal == 0) return "";
  std::chrono::duration<double> age = std::chrono::steady_clock::now() - when;
  return "{\"signal\": " + std::to_string(signal) + ", \"what\": " + json_quote(text()) +
         ", \"peer\": " + json_quote(peer) + ", \"age_seconds\": " + std::to_string(age.count()) + "}";
}

Session::Session(Client client, const std::string& folder, double max_seconds, const Fault& last_fault)
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
  if (child_ == 0) serve(fd, folder_, max_seconds, last_fault, parent);
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

bool Session::ended(Fault* fault) {
  int status = 0;
  if (child_ < 0) return true;
  if (waitpid(child_, &status, WNOHANG) != child_) return false;
  kill(-child_, SIGKILL);  // whatever the session itself started
  child_ = -1;
  std::string line = "session of " + client_.peer + " ";
  if (WIFSIGNALED(status)) {
    *fault = {WTERMSIG(status), client_.peer, std::chrono::steady_clock::now()};
    log_warning(line + "ended by " + fault->text());
    tell_client("RPCSessionEndedError: the session on the device was ended by " + fault->text());
  } else {
    status == 0 ? log_info(line + how_it_ended(status)) : log_warning(line + how_it_ended(status));
  }
  return true;
}

double Session::seconds_left() const {
  std::chrono::duration<double> passed = std::chrono::steady_clock::now() - started_;
  return seconds_ - passed.count();
}

void Session::expire() {
  log_warning("session of " + client_.peer + " took longer than its time; ending it");
  kill_child();
  char message[160];
  std::snprintf(message, sizeof(message), "RPCSessionTimeoutError: the session's %g s are over; the target's timeouts.session sets them",
                seconds_);
  tell_client(message);
}

// As the answer to the call that the client waits for.
void Session::tell_client(const std::string& message) {
  int fd = client_.socket.fd();
  timeval limit{2, 0};  // a client that reads nothing must not hold us up
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
  try {
    tvm::ffi::Function::GetGlobalRequired("rpc.ReturnException")(fd, message.c_str());
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
