// Reads JSON strictly and with bounds: RFC 8259, no duplicate keys, valid UTF-8, limited depth and number of values. A value
// keeps where it stood in the input, so that it can be passed on unchanged. It must never read past its input, nor recurse deeper
// than max_depth.
#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace json {

enum class Kind { Null, False, True, Number, String, Array, Object };

struct Value {
  Kind kind = Kind::Null;
  // As it stands in the input, which must outlive the value.
  std::string_view raw;
  // Of a string, without escapes.
  std::string text;
  std::vector<Value> items;
  std::vector<std::pair<std::string, Value>> members;

  // Of an object; null where there is no such member, or this is no object.
  const Value* Get(std::string_view key) const;
  // The text of a string member; empty where it is none.
  std::string_view Text(std::string_view key) const;
};

inline constexpr int max_depth = 64;
inline constexpr int max_values = 100'000;

// The one value that the input is. Nothing where it is not JSON; `why` then says what is wrong and at which byte.
std::optional<Value> Parse(std::string_view input, std::string* why);

// A string's spelling, quotes included. Bytes that are not UTF-8 become U+FFFD.
std::string Quote(std::string_view text);

}  // namespace json
