// Cases that tests/native/record.py has written: named arrays, of which some are what the ordinary engine gave.
#pragma once

#include <cstddef>
#include <cstdint>
#include <istream>
#include <map>
#include <string>
#include <vector>

namespace recorded {

struct Array {
  char kind = 't';  // f: float32, d: float64, i: int64, u: uint8, t: text
  std::vector<std::size_t> shape;
  std::vector<std::byte> bytes;

  std::size_t count() const;
  template <class T>
  T* data() {
    return reinterpret_cast<T*>(bytes.data());
  }
  template <class T>
  const T* data() const {
    return reinterpret_cast<const T*>(bytes.data());
  }
};

class Case {
 public:
  std::string title;
  std::map<std::string, Array> arrays;

  const Array& at(const std::string& name) const;
  std::string text(const std::string& name) const;
  // Null if there is none.
  template <class T>
  const T* find(const std::string& name) const {
    const auto found = arrays.find(name);
    return found == arrays.end() ? nullptr : found->second.template data<T>();
  }
};

// False at the end of the file. Throws std::runtime_error if the file is cut or something else.
bool read(std::istream& file, Case& to);

// What a run writes: arrays shaped as those recorded of a family of instruction sets, first filled with NaN.
class Outputs {
 public:
  Outputs(const Case& given, std::string family) : given_(given), family_(std::move(family)) {}

  // Null if nothing of that name is recorded.
  template <class T>
  T* out(const std::string& name) {
    Array* const array = poisoned(name);
    return array ? array->data<T>() : nullptr;
  }

  std::size_t count() const { return written_.size(); }
  // One line for each array that differs, or that differs by more than a tolerance times the larger of 1 and what was
  // recorded. Two NaN are the same: their bits are a processor's own choice.
  std::vector<std::string> differences(double tolerance = 0) const;
  bool same_as(const Outputs& other) const;

 private:
  Array* poisoned(const std::string& name);

  const Case& given_;
  const std::string family_;
  std::map<std::string, Array> written_;
};

}  // namespace recorded
