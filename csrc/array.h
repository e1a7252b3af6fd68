// NumPy's arrays as memory.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace gatewise {

// A dense array of the caller's, read through the buffer protocol, which costs less than a conversion.
class Array {
 public:
  Array(nanobind::handle object, const char* name, const char* format, std::vector<std::size_t> shape, bool writes) {
    const int flags = PyBUF_FORMAT | PyBUF_C_CONTIGUOUS | (writes ? PyBUF_WRITABLE : 0);
    if (PyObject_GetBuffer(object.ptr(), &view_, flags) != 0) {
      PyErr_Clear();
      throw nanobind::type_error((std::string(name) + " must be a NumPy array in one piece (C order)" +
                                  (writes ? " that can be written to." : "."))
                                     .c_str());
    }
    bool fits = view_.ndim == static_cast<int>(shape.size()) && std::strcmp(view_.format, format) == 0;
    for (std::size_t i = 0; fits && i < shape.size(); ++i) fits = view_.shape[i] == static_cast<Py_ssize_t>(shape[i]);
    if (fits && reinterpret_cast<std::uintptr_t>(view_.buf) % static_cast<std::size_t>(view_.itemsize) == 0) return;
    PyBuffer_Release(&view_);
    std::string wanted;
    for (const std::size_t size : shape) wanted += (wanted.empty() ? "" : ", ") + std::to_string(size);
    throw nanobind::value_error((std::string(name) + " must be an aligned " + (*format == 'f' ? "float32" : "int64") +
                                 " array of shape [" + wanted + "].")
                                    .c_str());
  }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  ~Array() { PyBuffer_Release(&view_); }

  template <class T>
  T* data() const {
    return static_cast<T*>(view_.buf);
  }

  // Results are written while inputs are still read.
  void check_apart(const Array& other) const {
    const auto* const a = static_cast<const char*>(view_.buf);
    const auto* const b = static_cast<const char*>(other.view_.buf);
    if (a < b + other.view_.len && b < a + view_.len) throw nanobind::value_error("x and out must not share memory.");
  }

 private:
  Py_buffer view_;
};

}  // namespace gatewise
