#include "daemon/session/listener.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace ultraep {

Listener::~Listener() {
  if (!bound_path_.empty()) unlink(bound_path_.c_str());
}

std::string Listener::Lock(const std::string& path) {
  const std::string file = path + ".lock";
  lock_ = Descriptor(open(file.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!lock_)
    return "cannot open " + file + ": " + std::strerror(errno) +
           "; create the directory or choose another --socket";
  if (flock(lock_.get(), LOCK_EX | LOCK_NB)) {
    char pid[32] = {};
    if (pread(lock_.get(), pid, sizeof pid - 1, 0) < 0) pid[0] = 0;
    return "another ultraepd (pid " + std::string(pid, strcspn(pid, "\n")) + ") serves " + path +
           "; stop it or choose another --socket";
  }
  const std::string pid = std::to_string(getpid()) + "\n";
  if (ftruncate(lock_.get(), 0) || pwrite(lock_.get(), pid.data(), pid.size(), 0) < 0)
    return "cannot write " + file + ": " + std::strerror(errno);
  return "";
}

std::string Listener::Open(const std::string& path, uint32_t mode) {
  if (std::string wrong = Lock(path); !wrong.empty()) return wrong;
  const char* listen_pid = std::getenv("LISTEN_PID");
  const char* listen_fds = std::getenv("LISTEN_FDS");
  if (listen_pid && listen_fds && std::atol(listen_pid) == getpid() && std::atoi(listen_fds) == 1) {
    socket_ = Descriptor(3);  // SD_LISTEN_FDS_START
    int type = 0, listening = 0;
    socklen_t size = sizeof(int);
    if (getsockopt(3, SOL_SOCKET, SO_TYPE, &type, &size) || type != SOCK_SEQPACKET ||
        getsockopt(3, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) || !listening)
      return "LISTEN_FDS hands over no listening SOCK_SEQPACKET socket; set "
             "ListenSequentialPacket= in the socket unit";
    fcntl(3, F_SETFD, FD_CLOEXEC);
    fcntl(3, F_SETFL, O_NONBLOCK);
    return "";
  }
  // The lock is ours, so whatever stands at the path is left over from a killed daemon; only a
  // socket is removed.
  struct stat old;
  if (!lstat(path.c_str(), &old)) {
    if (!S_ISSOCK(old.st_mode))
      return path + " exists and is not a socket; choose another --socket";
    unlink(path.c_str());
  }
  socket_ = Descriptor(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.c_str(), path.size());
  const mode_t before = umask(mode_t(~mode & 0777));
  const int bound = bind(socket_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address);
  umask(before);
  if (bound) return "cannot bind " + path + ": " + std::strerror(errno);
  bound_path_ = path;
  if (listen(socket_.get(), SOMAXCONN))
    return "cannot listen on " + path + ": " + std::strerror(errno);
  return "";
}

}  // namespace ultraep
