// The RPC server that runs on a device: registers with a tracker under a key and serves one client at a time, each in a
// child process, so that a crashing kernel or driver takes its session down and nothing else.

#include <arpa/inet.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <netinet/in.h>
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
#include <string>
#include <tuple>
#include <utility>

#include "../common/info.h"
#include "../common/log.h"
#include "../common/options.h"
#include "../common/plugins.h"
#include "session.h"
#include "socket.h"
#include "tracker.h"

namespace tvmfbnet {
namespace {

constexpr const char* kHelp = R"(tvmfbnet-server: serves this device to a TVM tracker.
  --tracker HOST:PORT   the tracker to register with (without one, clients connect here directly)
  --key KEY             what clients ask the tracker for
  --host HOST           address to listen on; default 127.0.0.1
  --port PORT           first port to try; default 9090
  --port-end PORT       last port to try; default the first
  --advertise HOST:PORT where clients find this server, if not where it listens (a tunnel's end on the workstation)
  --threads N           worker threads of TVM's runtime; default 1
  --cores LIST          cores to run on, such as 4-7
  --folder DIR          where session folders are made; default $TMPDIR or /tmp
  --max-session SECONDS longest session, whatever the client asks for; default 3600
  --until-stdin-closes  end when standard input closes
  --info                print what is known about this device, as JSON, and end
The server has no authentication and runs whatever it is sent: keep it on 127.0.0.1 and reach it through a tunnel.
)";

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

std::string peer_name(const sockaddr_storage& peer) {
  char text[INET6_ADDRSTRLEN] = "?";
  int port = 0;
  if (peer.ss_family == AF_INET) {
    auto* address = reinterpret_cast<const sockaddr_in*>(&peer);
    inet_ntop(AF_INET, &address->sin_addr, text, sizeof(text));
    port = ntohs(address->sin_port);
  } else if (peer.ss_family == AF_INET6) {
    auto* address = reinterpret_cast<const sockaddr_in6*>(&peer);
    inet_ntop(AF_INET6, &address->sin6_addr, text, sizeof(text));
    port = ntohs(address->sin6_port);
  }
  return std::string(text) + ":" + std::to_string(port);
}

struct Settings {
  std::string tracker_host, key, host, advertise, folder;
  int tracker_port = 0, port = 0, port_end = 0, advertise_port = 0;
  double max_session = 0;
  bool until_stdin_closes = false;
};

// "host:port"; UsageError otherwise.
std::pair<std::string, int> parse_address(const std::string& option, const std::string& text) {
  size_t colon = text.rfind(':');
  if (colon == std::string::npos || colon == 0) throw UsageError(option + " is '" + text + "': write HOST:PORT");
  return {text.substr(0, colon), static_cast<int>(parse_number(option + "'s port", text.substr(colon + 1), 1, 65535))};
}

Settings read_settings(const Options& options) {
  Settings settings;
  if (options.has("tracker")) {
    std::tie(settings.tracker_host, settings.tracker_port) = parse_address("--tracker", options.text("tracker", ""));
  }
  settings.key = options.text("key", "");
  if (settings.key.empty() || settings.key.find_first_of(" \"\\\n") != std::string::npos) {
    throw UsageError("--key is needed: a name without spaces or quotes");
  }
  settings.host = options.text("host", "127.0.0.1");
  settings.advertise = settings.host;
  if (options.has("advertise")) {
    std::tie(settings.advertise, settings.advertise_port) = parse_address("--advertise", options.text("advertise", ""));
  }
  settings.port = static_cast<int>(options.number("port", 9090, 0, 65535));
  settings.port_end = static_cast<int>(options.number("port-end", settings.port, 0, 65535));
  const char* temporary = std::getenv("TMPDIR");
  settings.folder = options.text("folder", temporary == nullptr ? "/tmp" : temporary);
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
  explicit Server(Settings settings) : settings_(std::move(settings)) {
    listener_ = listen_at(settings_.host, settings_.port, settings_.port_end, &port_);
    if (!settings_.tracker_host.empty()) {
      tracker_ = std::make_unique<Tracker>(settings_.tracker_host, settings_.tracker_port, settings_.key,
                                           settings_.advertise,
                                           settings_.advertise_port != 0 ? settings_.advertise_port : port_);
    }
    log_info("listening on " + settings_.host + ":" + std::to_string(port_) + " for key " + settings_.key);
    if (settings_.host != "127.0.0.1" && settings_.host != "::1" && settings_.host != "localhost") {
      log_warning("whoever reaches " + settings_.host + " can run any code here; prefer 127.0.0.1 and a tunnel");
    }
  }

  void run() {
    while (stop_signal == 0 && !input_closed_) {
      keep_tracker();
      wait();
      if (session_ && session_->ended()) end_session();
      if (session_ && session_->seconds_left() <= 0) {
        session_->expire();
        end_session();
      }
    }
    session_.reset();
    log_info(input_closed_ ? "standard input closed; ending" : "ending on signal " + std::to_string(stop_signal));
  }

 private:
  using Clock = std::chrono::steady_clock;

  void end_session() {
    session_.reset();
    next_check_ = Clock::now();  // offer this device again at once
  }

  // Registers, offers, and finds out when the tracker went away; also while a session runs.
  void keep_tracker() {
    if (!tracker_ || Clock::now() < next_check_) return;
    if (!tracker_->connected()) tracker_->connect();
    if (tracker_->connected() && !session_ && !tracker_->offered()) {
      tracker_->offer();
    } else if (tracker_->connected()) {
      tracker_->refresh_offer();
    }
    next_check_ = Clock::now() + std::chrono::milliseconds(tracker_->connected() ? 2000 : 1000);
  }

  int poll_milliseconds() const {
    double left = session_ ? std::max(0.0, session_->seconds_left()) : 60;
    if (tracker_) left = std::min(left, std::chrono::duration<double>(next_check_ - Clock::now()).count());
    return static_cast<int>(std::max(0.0, left) * 1000) + 1;
  }

  void wait() {
    pollfd entries[3] = {{wake_pipe[0], POLLIN, 0},
                         {session_ ? -1 : listener_.fd(), POLLIN, 0},
                         {settings_.until_stdin_closes ? STDIN_FILENO : -1, POLLIN, 0}};
    if (poll(entries, 3, poll_milliseconds()) <= 0) return;
    if (entries[0].revents != 0) drain_wake_pipe();
    if (entries[1].revents != 0) accept_client();
    if (entries[2].revents != 0) {
      char bytes[256];
      ssize_t got = read(STDIN_FILENO, bytes, sizeof(bytes));
      input_closed_ = got == 0 || (got < 0 && errno != EINTR && errno != EAGAIN);
    }
  }

  void accept_client() {
    sockaddr_storage peer{};
    socklen_t size = sizeof(peer);
    Socket connection(accept4(listener_.fd(), reinterpret_cast<sockaddr*>(&peer), &size, SOCK_CLOEXEC));
    if (!connection.open()) return;
    Client client;
    std::string expected = tracker_ ? tracker_->match_key() : settings_.key;
    if (!shake_hands(std::move(connection), peer_name(peer), expected, settings_.key, &client)) return;
    if (tracker_) tracker_->withdraw();
    session_ = std::make_unique<Session>(std::move(client), settings_.folder, settings_.max_session);
    next_check_ = Clock::now();
  }

  Settings settings_;
  Socket listener_;
  int port_ = 0;
  std::unique_ptr<Tracker> tracker_;
  std::unique_ptr<Session> session_;
  Clock::time_point next_check_{};
  bool input_closed_ = false;
};

int run(int argc, char** argv) {
  Options options(argc, argv,
                  {"tracker", "key", "host", "port", "port-end", "advertise", "threads", "cores", "folder", "max-session"},
                  {"until-stdin-closes", "info", "help"});
  if (options.has("help")) {
    std::cout << kHelp;
    return 0;
  }
  std::vector<int> cores;
  if (options.has("cores")) cores = parse_cores(options.text("cores", ""));
  apply_threads(options.number("threads", 1, 1, 1024), cores);
  if (options.has("info")) {
    std::cout << device_info() << std::endl;
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
