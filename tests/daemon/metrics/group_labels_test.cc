#include "daemon/metrics/group_labels.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace ultraep::metrics {
namespace {

using Names = std::vector<std::string>;

TEST(GroupLabelsTest, TheFirstSevenAreNamedAndTheRestIsOther) {
  GroupLabels labels;
  labels.Update({"a", "b", "c", "d", "e", "f", "g", "h", "i"}, {});
  EXPECT_EQ(labels.named(), (Names{"a", "b", "c", "d", "e", "f", "g"}));
  EXPECT_EQ(labels.Of("g"), "g");
  EXPECT_EQ(labels.Of("h"), "other");
}

TEST(GroupLabelsTest, OtherStaysOtherForItsLifeAlsoWhenAPlaceIsFree) {
  GroupLabels labels;
  labels.Update({"a", "b", "c", "d", "e", "f", "g", "h"}, {});
  labels.Update({"b", "c", "d", "e", "f", "g", "h"}, {});  // a is forgotten
  EXPECT_EQ(labels.Of("h"), "other");
  labels.Update({"b", "c", "d", "e", "f", "g"}, {"h"});  // it closes, and has a place from now on
  labels.Update({"b", "c", "d", "e", "f", "g", "h"}, {});
  EXPECT_EQ(labels.Of("h"), "h");
}

TEST(GroupLabelsTest, AClosedNameKeepsItsPlaceUntilANewOneNeedsItTheOldestFirst) {
  GroupLabels labels;
  labels.Update({"a", "b", "c", "d", "e", "f", "g"}, {});
  labels.Update({"a", "c", "d", "e", "f", "g"}, {"b"});
  labels.Update({"c", "d", "e", "f", "g"}, {"b", "a"});
  EXPECT_EQ(labels.Of("b"), "b");
  labels.Update({"c", "d", "e", "f", "g", "new"}, {"b", "a"});
  EXPECT_EQ(labels.Of("b"), "other");
  EXPECT_EQ(labels.Of("a"), "a");
  EXPECT_EQ(labels.Of("new"), "new");
}

TEST(GroupLabelsTest, AClosedNameThatIsNewTakesAFreePlaceAndNobodyElses) {
  GroupLabels labels;
  labels.Update({"a", "b", "c", "d", "e", "f"}, {"short"});
  EXPECT_EQ(labels.Of("short"), "short") << "it lived between two scrapes";
  labels.Update({"a", "b", "c", "d", "e", "f"}, {"short", "late"});
  EXPECT_EQ(labels.Of("late"), "other");
}

TEST(GroupLabelsTest, AGroupThatIsCalledOtherTakesNoPlace) {
  GroupLabels labels;
  labels.Update({"other", "a"}, {"other"});
  EXPECT_EQ(labels.named(), Names{"a"});
  EXPECT_EQ(labels.Of("other"), "other");
}

}  // namespace
}  // namespace ultraep::metrics
