#include "daemon/metrics/http_server.h"

#include <civetweb.h>
#include <dirent.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <cstdlib>
#include <initializer_list>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "daemon/log.h"

namespace ultraep {
namespace {

constexpr int kNice = 10;
// Eight clients that connect and say nothing hold up the ninth for as long as the timeout.
constexpr const char* kThreads = "8";
constexpr const char* kRequestTimeoutMs = "500";
// More wait in the kernel and cost no descriptors, which are counted (main.cc).
constexpr const char* kQueue = "4";

// The page is one file: whatever a group's name smuggles into it may load or send nothing.
constexpr const char* kHeaders =
    "Connection: close\r\n"
    "Cache-Control: no-store\r\n"
    "X-Content-Type-Options: nosniff\r\n"
    "Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'\r\n";

void Send(mg_connection* connection, const HttpAnswer& answer, const char* more, bool body) {
  const std::string head =
      absl::StrFormat("HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n%s%s\r\n",
                      answer.status, mg_get_response_code_text(connection, answer.status),
                      answer.type, answer.body.size(), more, kHeaders);
  mg_write(connection, head.data(), head.size());
  if (body) mg_write(connection, answer.body.data(), answer.body.size());
}

// Ends what this process has open at its own TCP port: the library notices its stop only when
// something happens there, after up to 2 s.
void ShutDownPort(uint32_t port) {
  DIR* const folder = opendir("/proc/self/fd");
  if (!folder) return;
  while (const dirent* entry = readdir(folder)) {
    const int fd = std::atoi(entry->d_name);
    sockaddr_in local{};
    socklen_t size = sizeof local;
    if (getsockname(fd, reinterpret_cast<sockaddr*>(&local), &size) ||
        local.sin_family != AF_INET || ntohs(local.sin_port) != port)
      continue;
    shutdown(fd, SHUT_RDWR);
  }
  closedir(folder);
}

}  // namespace

int HttpServer::Serve(mg_connection* connection) {
  const mg_request_info* request = mg_get_request_info(connection);
  const auto* server = static_cast<HttpServer*>(request->user_data);
  const std::string method = request->request_method;
  HttpAnswer answer;
  const char* more = "";
  if (method != "GET" && method != "HEAD") {
    answer = {405, answer.type, "only GET and HEAD\n"};
    more = "Allow: GET, HEAD\r\n";
  } else {
    answer = server->handler_(request->local_uri ? request->local_uri : "");
  }
  Send(connection, answer, more, method != "HEAD");
  return answer.status;
}

// Where CPUs are short, planner and ranks go first. On Linux this is the calling thread's own.
void* HttpServer::StepBack(const mg_context*, int) {
  setpriority(PRIO_PROCESS, 0, kNice);
  return nullptr;
}

int HttpServer::Log(const mg_connection* connection, const char* text) {
  auto* server = static_cast<HttpServer*>(mg_get_user_context_data(connection));
  if (server && server->starter_ == std::this_thread::get_id() && server->wrong_.empty())
    server->wrong_ = text;
  LogLine(LogLevel::kDebug, absl::StrFormat("HTTP: %s", text));
  return 1;
}

std::string HttpServer::Start(const ListenAddress& address) {
  mg_init_library(MG_FEATURES_DEFAULT);  // without TLS
  mg_callbacks callbacks{};
  callbacks.begin_request = &Serve;
  callbacks.log_message = &Log;
  callbacks.init_thread = &StepBack;
  const std::string where = address.text();
  starter_ = std::this_thread::get_id();
  std::vector<const char*> options;
  for (const auto& [name, value] : std::initializer_list<std::pair<const char*, const char*>>{
           {"listening_ports", where.c_str()},
           {"num_threads", kThreads},
           {"connection_queue", kQueue},
           {"request_timeout_ms", kRequestTimeoutMs},
           {"enable_keep_alive", "no"},
           {"tcp_nodelay", "1"}})
    options.insert(options.end(), {name, value});
  options.push_back(nullptr);
  mg_context* const context = mg_start(&callbacks, this, options.data());
  if (!context) {
    mg_exit_library();
    return wrong_.empty() ? "the HTTP server does not start" : wrong_;
  }
  mg_server_port port{};
  if (mg_get_server_ports(context, 1, &port) == 1) port_ = uint32_t(port.port);
  context_ = context;
  return "";
}

void HttpServer::Stop() {
  if (!context_) return;
  ShutDownPort(port_);
  mg_stop(context_);
  mg_exit_library();
  context_ = nullptr;
  port_ = 0;
}

}  // namespace ultraep
