// The part of the attach server that knows groups: joins, generations, and who is gone.
#include <cerrno>
#include <cstring>
#include <map>
#include <optional>
#include <utility>

#include "daemon/descriptor_budget.h"
#include "daemon/session/connection.h"

namespace ultraep {

bool AttachServer::HandleReady(Connection* connection, const Ready& ready) {
  Group* group = connection->group.get();
  if (!group || !group->Ready(connection->id, connection->rank, ready.generation))
    return Refuse(connection, "Ready for a generation of which it is no member; join again",
                  RefusalKind::kState, /*retry=*/true);
  const GroupGeneration* now = group->generation().get();  // null: it came late
  if (!now || now->gate().state != GateState::kOpen) return true;
  LogInfo("group %s: all %d ranks ready, first planned step %d", group->key().name,
          group->config().ranks, now->gate().value);
  view_->events().Add(group->key().uid, group->key().name, EventKind::kOpened,
                      [&](Event* event) { event->sequence = now->gate().value; });
  return true;
}

bool AttachServer::HandleJoin(Connection* connection, const Join& join) {
  if (connection->group &&
      (connection->rank != join.rank || connection->group->key().name != GetText(join.config.name)))
    return Refuse(connection,
                  "this connection is rank " + std::to_string(connection->rank) + " of group " +
                      connection->group->key().name + ", it cannot join as another one",
                  RefusalKind::kState);
  if (connection->group) NoteOver(connection->group.get());  // before the next generation hides it
  Refusal refusal;
  std::shared_ptr<Group> group = groups_.Join(connection->id, connection->uid, join, &refusal);
  if (!group) return Refuse(connection, refusal);
  // Proven death closes the membership even when a forked child keeps the socket open.
  if (connection->pidfd && !connection->group)
    Watch(connection->pidfd.get(), connection->id | kPidfdBit);
  connection->group = group;
  connection->rank = join.rank;
  LogInfo("group %s: rank %d of %d joined (pid %d, uid %d)", group->key().name, join.rank,
          join.config.ranks, connection->pid, connection->uid);
  Note(*connection, EventKind::kJoined);
  BeginGeneration(group);
  return true;
}

bool AttachServer::HandleRefusal(Connection* connection, const Refused& refused) {
  const std::shared_ptr<Group> group = connection->group;
  if (!group || !group->Owns(connection->id, connection->rank))
    return Refuse(connection, "a refusal from who is no member", RefusalKind::kMessage);
  std::string text =
      "rank " + std::to_string(connection->rank) + " cannot take part: " + GetText(refused.text);
  for (char& c : text)
    if (c < 0x20 || c > 0x7e) c = '?';
  for (auto& [id, other] : connections_)
    if (other->group == group && id != connection->id && group->Owns(id, other->rank)) {
      Refuse(other.get(), text, RefusalKind::kSystem, /*retry=*/true);
      doomed_.push_back(id);
    }
  return Refuse(connection, text, RefusalKind::kSystem);
}

// When the last rank has joined. A generation that cannot be had is refused to all of them.
void AttachServer::BeginGeneration(const std::shared_ptr<Group>& group) {
  Refusal refusal;
  const bool began = groups_.Begin(group.get(), &refusal);
  if (!began && refusal.text.empty()) return;
  for (auto& [id, connection] : connections_) {
    if (connection->group != group || !group->Owns(id, connection->rank)) continue;
    if (began)
      connection->due = group->generation();
    else if (!Refuse(connection.get(), refusal))
      doomed_.push_back(id);
  }
  SendDue();
}

// A user's connections share what may be on its way (descriptor_budget.h): whoever cannot be sent
// yet is tried again soon, and no user's silent ranks hold up another's.
void AttachServer::SendDue() {
  any_due_ = false;
  std::map<uid_t, int64_t> room;
  for (auto& [id, connection] : connections_) {
    if (!Unread(connection->socket.get())) connection->descriptors_unread = 0;
    room[connection->uid] +=
        int64_t{kDescriptorsPerConnection} - int64_t{connection->descriptors_unread};
  }
  for (auto& [id, connection] : connections_) {
    if (!connection->due) continue;
    const uint32_t count = connection->due->descriptors();
    if (Unread(connection->socket.get()) || room[connection->uid] < int64_t{count}) {
      any_due_ = true;
    } else if (SendGeneration(connection.get())) {
      connection->descriptors_unread = count;
      room[connection->uid] -= int64_t{count};
    } else {
      doomed_.push_back(id);
    }
  }
}

bool AttachServer::SendGeneration(Connection* connection) {
  const auto generation = std::exchange(connection->due, nullptr);
  if (generation->SendTo(connection->socket.get(), connection->rank, options_.lease_ns))
    return true;
  const int why = errno;
  return Refuse(connection,
                "group " + connection->group->key().name +
                    ": the generation's memory cannot be passed to rank " +
                    std::to_string(connection->rank) + ": " + std::strerror(why) +
                    (why == ETOOMANYREFS ? "; raise the daemon's LimitNOFILE" : ""),
                RefusalKind::kSystem, /*retry=*/true);
}

void AttachServer::CheckLeases(uint64_t now) {
  leases_checked_ns_ = now;
  for (const Groups::Fenced& fenced : groups_.Fence(now)) {
    for (uint32_t rank : fenced.ranks) {
      LogWarning("group %s: rank %d is fenced: no heartbeat for --lease_ms",
                 fenced.group->key().name, rank);
      view_->events().Add(fenced.group->key().uid, fenced.group->key().name, EventKind::kFenced,
                          [&](Event* event) { event->rank = rank; });
    }
    TellOver(fenced.group.get());
  }
  for (const auto& [key, group] : groups_.all()) NoteOver(group.get());
}

void AttachServer::TellOver(Group* group) {
  NoteOver(group);
  // A closed group's recording is complete: its reader learns it by the connection.
  if (group->empty())
    for (const auto& [id, connection] : connections_) {
      if (connection->asked.traced.get() == group) doomed_.push_back(id);
      operators_.Forget(*group, &connection->asked);
    }
  if (!group->generation()) return;
  Over over;
  over.generation = group->generation()->id();
  for (auto& [id, connection] : connections_)
    if (connection->group.get() == group)
      SendMessage(connection->socket.get(), over, nullptr, 0, MSG_DONTWAIT);
}

void AttachServer::NoteOver(Group* group) {
  const std::optional<GateState> over = group->TakeOver();
  if (!over) return;
  const bool failed = *over == GateState::kFailed;
  view_->events().Add(group->key().uid, group->key().name,
                      failed ? EventKind::kFailed : EventKind::kOver, [&](Event* event) {
                        if (failed) SetText(event->text, "a rank could not follow a plan");
                      });
}

void AttachServer::Note(const Connection& connection, EventKind kind) {
  const GroupKey& key = connection.group->key();
  view_->events().Add(key.uid, key.name, kind, [&](Event* event) {
    event->rank = connection.rank;
    event->value = uint64_t(connection.pid);
  });
}

void AttachServer::LeaveGroup(Connection* connection, MemberState how) {
  connection->due = nullptr;
  if (!connection->group) return;
  const bool counts = connection->group->Owns(connection->id, connection->rank);
  if (counts) Note(*connection, how == MemberState::kLeft ? EventKind::kLeft : EventKind::kGone);
  const std::shared_ptr<Group> group = std::exchange(connection->group, nullptr);
  LogInfo("group %s: rank %d %s", group->key().name, connection->rank,
          how == MemberState::kLeft ? "left" : "is gone");
  groups_.Gone(group, connection->id, connection->rank, how);
  TellOver(group.get());
}

}  // namespace ultraep
