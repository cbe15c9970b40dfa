// A small HTTP server: GET and HEAD, one function for all paths, no files, no keep-alive, no TLS.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <thread>
#include <utility>

#include "daemon/metrics/listen_address.h"

struct mg_connection;
struct mg_context;

namespace ultraep {

struct HttpAnswer {
  int status = 200;
  std::string type = "text/plain; charset=utf-8";
  std::string body;
};

class HttpServer {
 public:
  // Any thread, several at once; `path` without the query.
  using Handler = std::function<HttpAnswer(const std::string& path)>;

  explicit HttpServer(Handler handler) : handler_(std::move(handler)) {}
  ~HttpServer() { Stop(); }
  HttpServer(const HttpServer&) = delete;

  // Empty once it listens, else why it does not.
  std::string Start(const ListenAddress& address);
  // Waits for answers under way, not for clients that say nothing.
  void Stop();
  uint32_t port() const { return port_; }  // where it listens; 0: nowhere

 private:
  static int Serve(mg_connection* connection);
  static void* StepBack(const mg_context*, int);
  static int Log(const mg_connection* connection, const char* text);

  const Handler handler_;
  mg_context* context_ = nullptr;
  uint32_t port_ = 0;
  std::thread::id starter_;
  std::string wrong_;  // the library's first message to that thread
};

}  // namespace ultraep
