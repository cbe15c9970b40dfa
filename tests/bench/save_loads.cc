// `ultraep-bench loads OUT.npy`: the loads that the benchmarks plan, for `ultraepctl plan`, the
// oracle and other tools. uint32 [seeds, ranks, experts].
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

#include "absl/strings/str_format.h"
#include "protocol/npy.h"
#include "tests/bench/bench.h"

namespace ultraep::bench {
namespace {

int Fail(const std::string& path) {
  std::fprintf(stderr, "ultraep-bench: cannot write %s: %s\n", path.c_str(), std::strerror(errno));
  return 1;
}

}  // namespace

int SaveLoads(const Workload& w, const std::string& path) {
  std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen(path.c_str(), "wb"), &std::fclose);
  if (!file) return Fail(path);
  const std::string header = NpyHeader({w.seeds, w.shape.ranks, w.shape.experts}, "<u4");
  std::fwrite(header.data(), 1, header.size(), file.get());
  for (uint32_t i = 0; i < w.seeds; ++i) {
    ShowProgress(absl::StrFormat("load %d of %d", i + 1, w.seeds));
    const test::LoadMatrix load = w.Draw(i);
    std::fwrite(load.tokens.data(), 4, load.tokens.size(), file.get());
  }
  EndProgress();
  if (std::ferror(file.get()) || std::fclose(file.release())) return Fail(path);
  return 0;
}

}  // namespace ultraep::bench
