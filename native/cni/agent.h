// Asks the node agent, within a bounded time. Whoever listens on the socket must be root.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace cni {

enum class Mode { Unsaid, Open, Closed };

struct Answer {
  // Away: nobody answered, or not as an agent does.
  enum class Kind { Accepted, Refused, Away } kind = Kind::Away;
  // Of a refusal or of nobody's answer.
  std::string because;
  // Of a refusal, where the agent says it.
  Mode mode = Mode::Unsaid;
};

// `timeout_ms` bounds it all; where nobody listens it is given up after `attempts`, 100 ms apart.
Answer AskAgent(const std::string& path, std::string_view line, int timeout_ms, int attempts);

// Of one line, without its end.
Answer ReadAnswer(std::string_view line);

// Milliseconds of a clock that only goes on.
int64_t NowMs();

}  // namespace cni
