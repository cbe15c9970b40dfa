// Plans as `ultraepctl plan --json` prints them.
#pragma once

#include <string>
#include <vector>

#include "protocol/plan.h"

namespace ultraep::bench {

struct FilePlan {
  PlanShape shape;
  double imbalance_before = 1;
  std::vector<Replica> replicas;  // transfer order
};

// Empty on success, else what is wrong. Every plan is legal then.
std::string ReadPlans(const std::string& path, std::vector<FilePlan>* plans);

}  // namespace ultraep::bench
