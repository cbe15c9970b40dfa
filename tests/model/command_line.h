// Arguments and report, the same for every model.
#pragma once

#include <charconv>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "search.h"

namespace ultraep::model {

struct Flag {
  const char* name;
  int* value;  // holds the default
  int low, high;
  const char* help;
};

struct Mutant {
  const char* name;
  bool* on;
  const char* help;
};

struct CommandLine {
  const char* model;
  std::vector<Flag> flags;
  std::vector<Mutant> mutants;
  std::string mutant;
  int limit = 40;  // million states

  // Returns the exit status, or -1 to go on.
  int Parse(int argc, char** argv) {
    flags.push_back({"--limit", &limit, 1, 4000, "give up after this many million states"});
    for (int i = 1; i < argc; ++i) {
      const std::string_view argument = argv[i];
      if (argument == "--help") return Help();
      const std::string_view value = i + 1 < argc ? argv[i + 1] : "";
      if (!(argument == "--mutant" ? SetMutant(value) : SetFlag(argument, value))) {
        const bool known = argument == "--mutant" || Find(argument) != nullptr;
        std::fprintf(stderr, "%s_model: %s: %s%s%s\n", model,
                     known ? "bad value" : "unknown argument", argv[i], known ? " " : "",
                     known ? std::string(value).c_str() : "");
        return 2;
      }
      ++i;
    }
    return -1;
  }

  // Searches, prints the result and returns the exit status.
  template <class Model>
  int Check(const Model& checked) const {
    std::string config = model;
    for (const Flag& flag : flags) {
      if (flag.value != &limit)
        config += std::string(" ") + flag.name + " " + std::to_string(*flag.value);
    }
    if (!mutant.empty()) config += " --mutant " + mutant;
    const Result result = Search<Model>(checked, limit * size_t{1000000}).Run();
    if (result.kind == Result::kHolds) {
      std::printf("holds: %s %zu states\n", config.c_str(), result.states);
      return 0;
    }
    std::printf("%s: %s: %s (%zu states)\n", result.kind == Result::kBroken ? "broken" : "gave up",
                config.c_str(), result.property.c_str(), result.states);
    for (size_t i = 0; i < result.trace.size(); ++i) {
      std::printf("%4zu. %s\n", i + 1, result.trace[i].c_str());
    }
    return result.kind == Result::kBroken ? 1 : 3;
  }

 private:
  const Flag* Find(std::string_view name) const {
    for (const Flag& flag : flags) {
      if (name == flag.name) return &flag;
    }
    return nullptr;
  }
  bool SetFlag(std::string_view name, std::string_view text) {
    const Flag* flag = Find(name);
    int value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (!flag || text.empty() || error != std::errc() || end != text.data() + text.size() ||
        value < flag->low || value > flag->high) {
      return false;
    }
    *flag->value = value;
    return true;
  }
  bool SetMutant(std::string_view name) {
    for (const Mutant& candidate : mutants) {
      if (name != candidate.name) continue;
      *candidate.on = true;
      mutant = name;
      return true;
    }
    return false;
  }
  int Help() const {
    std::printf("usage: %s_model [--FLAG VALUE]... [--mutant NAME]\n", model);
    for (const Flag& flag : flags) {
      std::printf("  %-17s %d..%d, default %d: %s\n", flag.name, flag.low, flag.high, *flag.value,
                  flag.help);
    }
    std::printf("mutants, each breaks one rule:\n");
    for (const Mutant& candidate : mutants)
      std::printf("  %-21s %s\n", candidate.name, candidate.help);
    std::printf("exit status: 0 holds, 1 broken, 2 bad argument, 3 more states than the limit\n");
    return 0;
  }
};

}  // namespace ultraep::model
