#include "daemon/cli/top/screen.h"

#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "protocol/transport/waiting.h"

namespace ultraep {
namespace {

constexpr int kSignals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH, SIGTSTP};

// Blocked but while waiting, so a flag is never set between its check and the wait.
volatile sig_atomic_t came_end = 0, came_resize = 0, came_stop = 0;

void Note(int signal) {
  if (signal == SIGWINCH)
    came_resize = 1;
  else if (signal == SIGTSTP)
    came_stop = 1;
  else
    came_end = 1;
}

sigset_t OurSignals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : kSignals) sigaddset(&set, signal);
  return set;
}

void Put(const char* text) { std::fputs(text, stdout); }

}  // namespace

bool Screen::Possible() {
  const char* const term = std::getenv("TERM");
  return isatty(STDOUT_FILENO) && term && *term && std::strcmp(term, "dumb");
}

Screen::Screen() {
  struct sigaction action {};
  action.sa_handler = Note;
  for (const int signal : kSignals) sigaction(signal, &action, nullptr);
  const sigset_t ours = OurSignals();
  sigprocmask(SIG_BLOCK, &ours, nullptr);
  Enter();
}

Screen::~Screen() {
  Leave();
  for (const int signal : kSignals) ::signal(signal, SIG_DFL);
  const sigset_t ours = OurSignals();
  sigprocmask(SIG_UNBLOCK, &ours, nullptr);
}

void Screen::Enter() {
  keys_ = isatty(STDIN_FILENO) && !tcgetattr(STDIN_FILENO, &before_);
  if (keys_) {
    termios raw = before_;
    raw.c_lflag &= ~tcflag_t(ICANON | ECHO);  // signals stay
    raw.c_cc[VMIN] = 0;
    raw.c_cc[VTIME] = 0;
    tcsetattr(STDIN_FILENO, TCSANOW, &raw);
  }
  Put("\033[?1049h\033[?25l\033[2J");
  Measure();
}

void Screen::Leave() {
  Put("\033[?25h\033[?1049l");
  std::fflush(stdout);
  if (keys_) tcsetattr(STDIN_FILENO, TCSANOW, &before_);
}

void Screen::Measure() {
  winsize size{};
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) || !size.ws_col || !size.ws_row) return;
  width_ = size.ws_col;
  height_ = size.ws_row;
}

void Screen::Draw(const std::vector<std::string>& lines) {
  std::string all = "\033[H";
  for (size_t i = 0; i < lines.size(); ++i) all += (i ? "\r\n" : "") + lines[i] + "\033[K";
  Put((all + "\033[J").c_str());
  std::fflush(stdout);
}

int Screen::Wait(uint64_t until_ns) {
  const uint64_t now = NowNs();
  const uint64_t left = until_ns > now ? until_ns - now : 0;
  const timespec limit{time_t(left / 1'000'000'000), long(left % 1'000'000'000)};
  pollfd wait{STDIN_FILENO, POLLIN, 0};
  sigset_t none;
  sigemptyset(&none);
  const int ready = ppoll(&wait, keys_ ? 1 : 0, &limit, &none);
  if (came_end) return kEnd;
  if (came_stop) {
    came_stop = 0;
    Leave();
    kill(getpid(), SIGSTOP);
    Enter();
    return kResized;
  }
  if (came_resize) {
    came_resize = 0;
    Measure();
    Put("\033[2J");
    return kResized;
  }
  if (ready <= 0) return kNothing;
  char key = 0;
  const ssize_t got = read(STDIN_FILENO, &key, 1);
  if (got > 0) return static_cast<unsigned char>(key);
  return got < 0 && errno == EINTR ? kNothing : kEnd;
}

}  // namespace ultraep
