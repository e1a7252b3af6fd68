// Words for enumerations.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>

namespace gatewise {

template <class Word, std::size_t kCount>
Word word(const char* const (&words)[kCount], const std::string& name) {
  for (std::size_t i = 0; i < kCount; ++i)
    if (name == words[i]) return static_cast<Word>(i);
  throw std::invalid_argument("no word '" + name + "'.");
}

}  // namespace gatewise
