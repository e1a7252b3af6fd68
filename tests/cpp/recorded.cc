#include "recorded.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <stdexcept>

namespace recorded {
namespace {

std::size_t size_of(char kind) {
  switch (kind) {
    case 'f':
      return 4;
    case 'd':
    case 'i':
      return 8;
    case 'u':
    case 't':
      return 1;
  }
  throw std::runtime_error("the file has an array of an unknown kind.");
}

std::uint64_t number(std::istream& file) {
  std::uint64_t value = 0;
  file.read(reinterpret_cast<char*>(&value), sizeof value);
  if (!file) throw std::runtime_error("the file is cut.");
  return value;
}

std::string string(std::istream& file) {
  std::string text(number(file), ' ');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  return text;
}

template <class Real>
bool same(const std::byte* a, const std::byte* b, double tolerance) {
  Real x, y;
  std::memcpy(&x, a, sizeof x);
  std::memcpy(&y, b, sizeof y);
  if (std::memcmp(a, b, sizeof x) == 0 || (std::isnan(x) && std::isnan(y))) return true;
  return tolerance > 0 && std::isfinite(y) &&
         std::abs(x - y) <= tolerance * std::max(1.0, std::abs(static_cast<double>(y)));
}

// In how many elements two arrays differ, and in which one first.
struct Difference {
  std::size_t count = 0, first = 0;
};

Difference compare(const Array& a, const Array& b, double tolerance = 0) {
  Difference found;
  const std::size_t size = size_of(a.kind);
  for (std::size_t i = 0; i < a.count(); ++i) {
    const std::byte *const x = a.bytes.data() + i * size, *const y = b.bytes.data() + i * size;
    if (a.kind == 'd' ? same<double>(x, y, tolerance) : same<float>(x, y, tolerance)) continue;
    if (!found.count++) found.first = i;
  }
  return found;
}

double value(const Array& array, std::size_t i) {
  return array.kind == 'd' ? array.data<double>()[i] : static_cast<double>(array.data<float>()[i]);
}

}  // namespace

std::size_t Array::count() const {
  std::size_t product = 1;
  for (const std::size_t size : shape) product *= size;
  return product;
}

const Array& Case::at(const std::string& name) const {
  const auto found = arrays.find(name);
  if (found == arrays.end()) throw std::runtime_error("the case '" + title + "' has no '" + name + "'.");
  return found->second;
}

std::string Case::text(const std::string& name) const {
  const Array& array = at(name);
  return {array.data<char>(), array.bytes.size()};
}

bool read(std::istream& file, Case& to) {
  if (file.peek() == std::istream::traits_type::eof()) return false;
  to.title = string(file);
  to.arrays.clear();
  for (std::uint64_t left = number(file); left > 0; --left) {
    const std::string name = string(file);
    Array& array = to.arrays[name];
    array.kind = static_cast<char>(number(file));
    array.shape.resize(number(file));
    for (std::size_t& size : array.shape) size = number(file);
    array.bytes.resize(array.count() * size_of(array.kind));
    file.read(reinterpret_cast<char*>(array.bytes.data()), static_cast<std::streamsize>(array.bytes.size()));
    if (!file) throw std::runtime_error("the file is cut.");
  }
  return true;
}

Array* Outputs::poisoned(const std::string& name) {
  const auto expected = given_.arrays.find(family_ + "/" + name);
  if (expected == given_.arrays.end()) return nullptr;
  Array& array = written_[name];
  array.kind = expected->second.kind;
  array.shape = expected->second.shape;
  array.bytes.resize(expected->second.bytes.size());
  for (std::size_t i = 0; i < array.count(); ++i)
    if (array.kind == 'd')
      array.data<double>()[i] = std::numeric_limits<double>::quiet_NaN();
    else
      array.data<float>()[i] = std::numeric_limits<float>::quiet_NaN();
  return &array;
}

std::vector<std::string> Outputs::differences(double tolerance) const {
  std::vector<std::string> lines;
  for (const auto& [name, array] : written_) {
    const Array& expected = given_.at(family_ + "/" + name);
    const Difference found = compare(array, expected, tolerance);
    if (!found.count) continue;
    char text[200];
    std::snprintf(text, sizeof text, "%s differs in %zu of %zu, first at %zu: %a instead of %a", name.c_str(),
                  found.count, array.count(), found.first, value(array, found.first), value(expected, found.first));
    lines.emplace_back(text);
  }
  return lines;
}

bool Outputs::same_as(const Outputs& other) const {
  for (const auto& [name, array] : written_)
    if (compare(array, other.written_.at(name)).count) return false;
  return written_.size() == other.written_.size();
}

}  // namespace recorded
