#include "json.h"

#include <algorithm>
#include <cstdint>

namespace json {
namespace {

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

int HexDigit(char c) {
  if (IsDigit(c)) return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

void AppendUtf8(std::string& out, uint32_t point) {
  if (point < 0x80) {
    out += static_cast<char>(point);
  } else if (point < 0x800) {
    out += static_cast<char>(0xC0 | (point >> 6));
    out += static_cast<char>(0x80 | (point & 0x3F));
  } else if (point < 0x10000) {
    out += static_cast<char>(0xE0 | (point >> 12));
    out += static_cast<char>(0x80 | ((point >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (point & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | (point >> 18));
    out += static_cast<char>(0x80 | ((point >> 12) & 0x3F));
    out += static_cast<char>(0x80 | ((point >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (point & 0x3F));
  }
}

// The length of the UTF-8 sequence at `at`; 0 where there is none (RFC 3629: no overlong forms, no surrogates).
size_t Utf8Length(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t first = byte(at);
  if (first < 0x80) return 1;
  size_t length = 0;
  uint8_t low = 0x80;
  uint8_t high = 0xBF;
  if (first >= 0xC2 && first <= 0xDF) {
    length = 2;
  } else if (first >= 0xE0 && first <= 0xEF) {
    length = 3;
    if (first == 0xE0) low = 0xA0;
    if (first == 0xED) high = 0x9F;
  } else if (first >= 0xF0 && first <= 0xF4) {
    length = 4;
    if (first == 0xF0) low = 0x90;
    if (first == 0xF4) high = 0x8F;
  } else {
    return 0;
  }
  if (text.size() - at < length) return 0;
  if (byte(at + 1) < low || byte(at + 1) > high) return 0;
  for (size_t i = 2; i < length; ++i) {
    if (byte(at + i) < 0x80 || byte(at + i) > 0xBF) return 0;
  }
  return length;
}

class Reader {
 public:
  explicit Reader(std::string_view input) : input_(input) {}

  bool Document(Value& out) {
    SkipBlanks();
    if (!ReadValue(out, 0)) return false;
    SkipBlanks();
    return at_ == input_.size() || Fail("something follows the value");
  }

  std::string Why() const { return std::string(why_) + " at byte " + std::to_string(at_); }

 private:
  bool Fail(const char* why) {
    if (why_ == nullptr) why_ = why;
    return false;
  }

  bool Is(char c) const { return at_ < input_.size() && input_[at_] == c; }

  bool Take(char c) {
    if (!Is(c)) return false;
    ++at_;
    return true;
  }

  void SkipBlanks() {
    while (Is(' ') || Is('\t') || Is('\n') || Is('\r')) ++at_;
  }

  bool ReadValue(Value& out, int depth) {
    if (depth >= max_depth) return Fail("nested too deeply");
    if (++values_ > max_values) return Fail("too many values");
    const size_t start = at_;
    if (!ReadAny(out, depth)) return false;
    out.raw = input_.substr(start, at_ - start);
    return true;
  }

  bool ReadAny(Value& out, int depth) {
    if (at_ == input_.size()) return Fail("ends too early");
    switch (input_[at_]) {
      case '{': return ReadObject(out, depth);
      case '[': return ReadArray(out, depth);
      case '"': out.kind = Kind::String; return ReadString(out.text);
      case 't': out.kind = Kind::True; return ReadWord("true");
      case 'f': out.kind = Kind::False; return ReadWord("false");
      case 'n': out.kind = Kind::Null; return ReadWord("null");
      default: out.kind = Kind::Number; return ReadNumber();
    }
  }

  bool ReadWord(std::string_view word) {
    if (input_.substr(at_, word.size()) != word) return Fail("no JSON value");
    at_ += word.size();
    return true;
  }

  bool ReadDigits() {
    if (at_ == input_.size() || !IsDigit(input_[at_])) return Fail("no JSON value");
    while (at_ < input_.size() && IsDigit(input_[at_])) ++at_;
    return true;
  }

  bool ReadNumber() {
    Take('-');
    if (!Take('0') && !ReadDigits()) return false;
    if (Take('.') && !ReadDigits()) return false;
    if (Is('e') || Is('E')) {
      ++at_;
      if (!Take('+')) Take('-');
      return ReadDigits();
    }
    return true;
  }

  bool ReadHex(uint32_t& out) {
    out = 0;
    for (int i = 0; i < 4; ++i) {
      const int digit = at_ < input_.size() ? HexDigit(input_[at_]) : -1;
      if (digit < 0) return Fail("four hexadecimal digits are missing");
      out = out * 16 + static_cast<uint32_t>(digit);
      ++at_;
    }
    return true;
  }

  bool ReadEscape(std::string& out) {
    if (at_ == input_.size()) return Fail("ends too early");
    switch (input_[at_++]) {
      case '"': out += '"'; return true;
      case '\\': out += '\\'; return true;
      case '/': out += '/'; return true;
      case 'b': out += '\b'; return true;
      case 'f': out += '\f'; return true;
      case 'n': out += '\n'; return true;
      case 'r': out += '\r'; return true;
      case 't': out += '\t'; return true;
      case 'u': break;
      default: --at_; return Fail("no such escape");
    }
    uint32_t point = 0;
    if (!ReadHex(point)) return false;
    if (point >= 0xDC00 && point <= 0xDFFF) return Fail("half of a surrogate pair");
    if (point >= 0xD800 && point <= 0xDBFF) {
      uint32_t low = 0;
      if (!Take('\\') || !Take('u')) return Fail("half of a surrogate pair");
      if (!ReadHex(low)) return false;
      if (low < 0xDC00 || low > 0xDFFF) return Fail("half of a surrogate pair");
      point = 0x10000 + ((point - 0xD800) << 10) + (low - 0xDC00);
    }
    AppendUtf8(out, point);
    return true;
  }

  bool ReadString(std::string& out) {
    ++at_;
    for (;;) {
      if (at_ == input_.size()) return Fail("ends too early");
      const char c = input_[at_];
      if (c == '"') break;
      if (static_cast<uint8_t>(c) < 0x20) return Fail("a control character in a string");
      if (c == '\\') {
        ++at_;
        if (!ReadEscape(out)) return false;
        continue;
      }
      const size_t length = Utf8Length(input_, at_);
      if (length == 0) return Fail("not UTF-8");
      out.append(input_.substr(at_, length));
      at_ += length;
    }
    ++at_;
    return true;
  }

  bool ReadArray(Value& out, int depth) {
    out.kind = Kind::Array;
    ++at_;
    SkipBlanks();
    if (Take(']')) return true;
    do {
      SkipBlanks();
      if (!ReadValue(out.items.emplace_back(), depth + 1)) return false;
      SkipBlanks();
    } while (Take(','));
    return Take(']') || Fail("a comma or bracket is missing");
  }

  bool ReadObject(Value& out, int depth) {
    out.kind = Kind::Object;
    ++at_;
    SkipBlanks();
    if (Take('}')) return true;
    do {
      SkipBlanks();
      std::string key;
      if (!Is('"')) return Fail("a key is missing");
      if (!ReadString(key)) return false;
      SkipBlanks();
      if (!Take(':')) return Fail("a colon is missing");
      SkipBlanks();
      out.members.emplace_back(std::move(key), Value{});
      if (!ReadValue(out.members.back().second, depth + 1)) return false;
      SkipBlanks();
    } while (Take(','));
    if (!Take('}')) return Fail("a comma or brace is missing");
    return HasNoTwins(out) || Fail("a key stands twice in the object that ends");
  }

  // Two readers of such a text could take different members. Sorted, because somebody may send an object of 100,000 keys.
  static bool HasNoTwins(const Value& object) {
    std::vector<std::string_view> keys;
    keys.reserve(object.members.size());
    for (const auto& member : object.members) keys.push_back(member.first);
    std::sort(keys.begin(), keys.end());
    return std::adjacent_find(keys.begin(), keys.end()) == keys.end();
  }

  std::string_view input_;
  size_t at_ = 0;
  int values_ = 0;
  const char* why_ = nullptr;
};

}  // namespace

const Value* Value::Get(std::string_view key) const {
  for (const auto& [name, value] : members) {
    if (name == key) return &value;
  }
  return nullptr;
}

std::string_view Value::Text(std::string_view key) const {
  const Value* value = Get(key);
  return value != nullptr && value->kind == Kind::String ? std::string_view(value->text) : std::string_view();
}

std::optional<Value> Parse(std::string_view input, std::string* why) {
  Reader reader(input);
  Value value;
  if (reader.Document(value)) return value;
  if (why != nullptr) *why = reader.Why();
  return std::nullopt;
}

std::string Quote(std::string_view text) {
  static constexpr char hex[] = "0123456789abcdef";
  std::string out = "\"";
  for (size_t at = 0; at < text.size();) {
    const size_t length = Utf8Length(text, at);
    const char c = text[at];
    if (length == 0) {
      out += "\xEF\xBF\xBD";
      ++at;
    } else if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
      ++at;
    } else if (length == 1 && (static_cast<uint8_t>(c) < 0x20 || c == 0x7F)) {
      out += "\\u00";
      out += hex[static_cast<uint8_t>(c) >> 4];
      out += hex[static_cast<uint8_t>(c) & 0xF];
      ++at;
    } else {
      out.append(text.substr(at, length));
      at += length;
    }
  }
  return out + '"';
}

}  // namespace json
