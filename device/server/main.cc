// The RPC server that runs on a device: registers with a tracker under a key and serves one client at a time, each in a
// child process, so that a crashing kernel or driver takes its session down and nothing else.

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "../common/info.h"
#include "../common/log.h"
#include "../common/options.h"
#include "../common/plugins.h"
#include "handshake.h"
#include "session.h"
#include "socket.h"
#include "tracker.h"

namespace tvmfbnet {
namespace {

constexpr const char* kHelp = R"(tvmfbnet-server: serves this device to a TVM tracker.
  --tracker HOST:PORT   the tracker to register with, [ADDRESS]:PORT for IPv6; without one, clients come here directly
  --key KEY             what clients ask the tracker for
  --host HOST           address to listen on; default 127.0.0.1
  --port PORT           first port to try; default 9090
  --port-end PORT       last port to try; default the first
  --advertise HOST:PORT where clients find this server, if not where it listens (a tunnel's end on the workstation)
  --threads N           worker threads of TVM's runtime; default 1
  --cores LIST          cores to run on, such as 4-7
  --folder DIR          where session folders are made; default $TMPDIR or /tmp (Android: /data/local/tmp)
  --max-session SECONDS longest session, whatever the client asks for; default 3600
  --simulates MODEL     tell of a simulated device of this model, and nothing of this machine
  --until-stdin-closes  end when standard input closes
  --info                print what is known about this device, as JSON, and end
The server has no authentication and runs whatever it is sent: keep it on 127.0.0.1 and reach it through a tunnel.
)";

#ifdef __ANDROID__
constexpr const char* kTemporary = "/data/local/tmp";  // there is no /tmp
#else
constexpr const char* kTemporary = "/tmp";
#endif
constexpr size_t kKeyLimit = 128;
constexpr int kAcceptedAtOnce = 128;
// Whoever waits for this server to end with its parent waits no longer than this.
constexpr double kLongestPoll = 1;

int wake_pipe[2] = {-1, -1};
volatile sig_atomic_t stop_signal = 0;

void on_signal(int number) {
  int error = errno;
  if (number != SIGCHLD) stop_signal = number;
  [[maybe_unused]] ssize_t written = write(wake_pipe[1], "x", 1);
  errno = error;
}

void install_signals() {
  if (pipe2(wake_pipe, O_NONBLOCK | O_CLOEXEC) != 0) throw std::runtime_error("cannot make a pipe");
  struct sigaction action {};
  action.sa_handler = on_signal;
  for (int number : {SIGTERM, SIGINT, SIGHUP, SIGCHLD}) sigaction(number, &action, nullptr);
  signal(SIGPIPE, SIG_IGN);
  signal(SIGXFSZ, SIG_IGN);  // a limit on file sizes is an error of write(), also for the log, and not the end
}

void drain_wake_pipe() {
  char bytes[64];
  while (read(wake_pipe[0], bytes, sizeof(bytes)) > 0) {
  }
}

struct Settings {
  std::string tracker_host, key, host, advertise, folder;
  int tracker_port = 0, port = 0, port_end = 0, advertise_port = 0;
  double max_session = 0;
  bool until_stdin_closes = false;
};

Settings read_settings(const Options& options) {
  Settings settings;
  if (options.has("tracker")) {
    std::tie(settings.tracker_host, settings.tracker_port) = parse_address("--tracker", options.text("tracker", ""));
  }
  settings.key = options.text("key", "");
  bool plain = std::all_of(settings.key.begin(), settings.key.end(),
                           [](char c) { return c > ' ' && c < 0x7f && c != '"' && c != '\\'; });
  if (settings.key.empty() || settings.key.size() > kKeyLimit || !plain) {
    throw UsageError("--key is needed: a name of at most " + std::to_string(kKeyLimit) +
                     " letters, without spaces or quotes");
  }
  settings.host = options.text("host", "127.0.0.1");
  settings.advertise = settings.host;
  if (options.has("advertise")) {
    std::tie(settings.advertise, settings.advertise_port) = parse_address("--advertise", options.text("advertise", ""));
  }
  settings.port = static_cast<int>(options.number("port", 9090, 0, 65535));
  settings.port_end = static_cast<int>(options.number("port-end", settings.port, settings.port, 65535));
  const char* temporary = std::getenv("TMPDIR");
  settings.folder = options.text("folder", temporary == nullptr ? kTemporary : temporary);
  struct stat found {};
  if (stat(settings.folder.c_str(), &found) != 0 || !S_ISDIR(found.st_mode)) {
    throw UsageError("--folder is '" + settings.folder + "', which is no folder");
  }
  settings.folder = std::filesystem::absolute(settings.folder).string();
  settings.max_session = static_cast<double>(options.number("max-session", 3600, 1, 86400));
  settings.until_stdin_closes = options.has("until-stdin-closes");
  return settings;
}

class Server {
 public:
  explicit Server(Settings settings) : settings_(std::move(settings)), handshakes_(settings_.key) {
    listener_ = listen_at(settings_.host, settings_.port, settings_.port_end, &port_);
    if (!settings_.tracker_host.empty()) {
      tracker_ = std::make_unique<Tracker>(settings_.tracker_host, settings_.tracker_port, settings_.key,
                                           settings_.advertise,
                                           settings_.advertise_port != 0 ? settings_.advertise_port : port_);
    }
    log_info("listening on " + address_text(settings_.host, port_) + " for key " + settings_.key);
    if (settings_.host != "127.0.0.1" && settings_.host != "::1" && settings_.host != "localhost") {
      log_warning("whoever reaches " + settings_.host + " can run any code here; prefer loopback and a tunnel");
    }
  }

  void run() {
    short tracker_events = 0;
    while (stop_signal == 0 && !orphaned_) {
      if (tracker_) tracker_->step(tracker_events, session_ == nullptr);
      tracker_events = wait();
      handshakes_.expire();
      if (session_ && session_->ended(&last_fault_)) session_.reset();
      if (session_ && session_->seconds_left() <= 0) {
        session_->expire();
        session_.reset();
      }
    }
    session_.reset();
    log_info(orphaned_ ? "standard input closed; ending" : "ending on signal " + std::to_string(stop_signal));
  }

 private:
  using Clock = std::chrono::steady_clock;

  // Who comes without having asked a tracker waits in the queue of the listener; else a client has an offer, or is wrong.
  bool takes_connections() const { return tracker_ != nullptr || session_ == nullptr; }

  int poll_milliseconds() const {
    Clock::time_point next = handshakes_.deadline();
    if (tracker_) next = std::min(next, tracker_->deadline());
    double left = std::min(kLongestPoll, std::chrono::duration<double>(next - Clock::now()).count());
    if (session_) left = std::min(left, session_->seconds_left());
    return static_cast<int>(std::max(0.0, left) * 1000) + 1;
  }

  // Until something happens; what happened at the tracker's connection is returned.
  short wait() {
    std::vector<pollfd> entries = {{wake_pipe[0], POLLIN, 0},
                                   {takes_connections() ? listener_.fd() : -1, POLLIN, 0},
                                   {settings_.until_stdin_closes ? STDIN_FILENO : -1, POLLIN, 0},
                                   tracker_ ? tracker_->watched() : pollfd{-1, 0, 0}};
    const size_t first = entries.size();
    if (takes_connections()) handshakes_.watch(&entries);
    int ready = poll(entries.data(), entries.size(), poll_milliseconds());
    // Another process may hold the other end of standard input: whose child this is tells as well.
    orphaned_ = settings_.until_stdin_closes && getppid() != parent_;
    if (ready <= 0) return 0;
    if (entries[0].revents != 0) drain_wake_pipe();
    if (entries[2].revents != 0) read_input();
    if (takes_connections()) meet(entries.data() + first);
    if (entries[1].revents != 0) accept_connections();
    return entries[3].revents;
  }

  void read_input() {
    char bytes[256];
    ssize_t got = read(STDIN_FILENO, bytes, sizeof(bytes));
    orphaned_ = orphaned_ || got == 0 || (got < 0 && errno != EINTR && errno != EAGAIN);
  }

  void accept_connections() {
    for (int taken = 0; taken < kAcceptedAtOnce; ++taken) {  // others are served in between
      sockaddr_storage peer{};
      socklen_t size = sizeof(peer);
      Socket connection(accept4(listener_.fd(), reinterpret_cast<sockaddr*>(&peer), &size, SOCK_CLOEXEC));
      if (connection.open()) {
        handshakes_.add(std::move(connection), peer);
      } else if ((errno != EMFILE && errno != ENFILE) || !handshakes_.drop_oldest()) {
        return;
      }
    }
  }

  void meet(const pollfd* entries) {
    std::string expected = session_ ? "" : tracker_ ? tracker_->match_key() : settings_.key;
    std::optional<Client> client = handshakes_.serve(entries, expected);
    if (!client) return;
    if (tracker_) tracker_->withdraw();
    session_ = std::make_unique<Session>(std::move(*client), settings_.folder, settings_.max_session, last_fault_);
  }

  Settings settings_;
  Socket listener_;
  Handshakes handshakes_;
  int port_ = 0;
  std::unique_ptr<Tracker> tracker_;
  std::unique_ptr<Session> session_;
  Fault last_fault_;
  const pid_t parent_ = getppid();
  bool orphaned_ = false;
};

int run(int argc, char** argv) {
  Options options(argc, argv,
                  {"tracker", "key", "host", "port", "port-end", "advertise", "threads", "cores", "folder", "max-session",
                   "simulates"},
                  {"until-stdin-closes", "info", "help"});
  if (options.has("help")) {
    std::cout << kHelp;
    return 0;
  }
  std::vector<int> cores;
  if (options.has("cores")) cores = parse_cores(options.text("cores", ""));
  apply_threads(options.number("threads", 1, 1, 1024), cores);
  if (options.has("simulates")) simulate_device(options.text("simulates", ""));
  if (options.has("info")) {
    std::cout << device_info({{"max_session_seconds", options.text("max-session", "3600")}}) << std::endl;
    return 0;
  }
  Settings settings = read_settings(options);
  install_signals();
  load_plugins();
  Server server(settings);
  std::cout << "ready" << std::endl;
  server.run();
  return 0;
}

}  // namespace
}  // namespace tvmfbnet

int main(int argc, char** argv) { return tvmfbnet::run_program(tvmfbnet::run, argc, argv); }
