// What a service of type notify says to systemd, without its library.
#pragma once

#include <string>

namespace ultraep {

// Lines of NAME=VALUE, as sd_notify(3) describes them, to the socket that NOTIFY_SOCKET names (a
// path, or abstract with '@'). False when there is none, or it does not take them.
bool NotifySystemd(const std::string& state);

}  // namespace ultraep
