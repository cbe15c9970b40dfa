#include "tests/bench/plan_file.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>

#include "nlohmann/json.hpp"
#include "protocol/check_plan.h"

namespace ultraep::bench {
namespace {

using Json = nlohmann::json;

FilePlan Read(const Json& plan) {
  FilePlan out;
  out.shape = {plan.at("ranks"), plan.at("experts"), plan.at("slots"), plan.at("domain_size")};
  out.imbalance_before = plan.at("imbalance_before");
  const Json &replicas = plan.at("replicas"), &transfers = plan.at("transfers");
  for (size_t i = 0; i < replicas.size(); ++i)
    out.replicas.push_back({replicas[i].at("expert"), replicas[i].at("rank"),
                            replicas[i].at("slot"), transfers.at(i).at("parent"), 0,
                            replicas[i].at("tokens")});
  return out;
}

}  // namespace

std::string ReadPlans(const std::string& path, std::vector<FilePlan>* plans) {
  std::ifstream in(path);
  if (!in) return std::strerror(errno);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  try {
    const Json out = Json::parse(text);
    for (const Json& plan : out.at("plans")) plans->push_back(Read(plan));
  } catch (const Json::exception& e) {
    return std::string("not what `ultraepctl plan --json` prints: ") + e.what();
  }
  if (plans->empty()) return "there is no plan in it";
  for (size_t i = 0; i < plans->size(); ++i) {
    const FilePlan& p = (*plans)[i];
    std::string wrong = CheckShape(p.shape);
    PlanChecker checker;  // loads are not in the file: quotas are believed
    if (wrong.empty())
      if (const PlanFault fault =
              checker.Check(p.shape, p.replicas, [](uint32_t) { return UINT64_MAX; }))
        wrong = fault.text();
    if (!wrong.empty()) return "plan " + std::to_string(i) + ": " + wrong;
  }
  return "";
}

}  // namespace ultraep::bench
