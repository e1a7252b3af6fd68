// Lists as std::vector and objects of ours as std::shared_ptr, in the place of <nanobind/stl/vector.h> and
// <nanobind/stl/shared_ptr.h>: those read them where no exception may pass, so that the lack of memory for a vector
// would end the process. Here they are made on the way into the function.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/detail/nb_list.h>

#include <cstdint>
#include <memory>
#include <type_traits>
#include <vector>

namespace nanobind::detail {

template <class Entry>
struct type_caster<std::vector<Entry>> {
  using Value = std::vector<Entry>;
  using Caster = make_caster<Entry>;
  template <class>
  using Cast = Value;
  static constexpr auto Name = list_caster<Value, Entry>::Name;

  bool from_python(handle given, std::uint32_t, cleanup_list*) noexcept {
    source_ = given;
    return PyList_Check(given.ptr()) || PyTuple_Check(given.ptr());
  }
  template <class>
  bool can_cast() const noexcept {
    return true;
  }
  static handle from_cpp(const Value& values, rv_policy policy, cleanup_list* cleanup) noexcept {
    return list_caster<Value, Entry>::from_cpp(values, policy, cleanup);
  }

  operator Value() const {
    Value values;
    // Not the faster macros, which the stable ABI has not.
    const Py_ssize_t count = PySequence_Size(source_.ptr());
    values.reserve(static_cast<std::size_t>(count));
    for (Py_ssize_t i = 0; i < count; ++i) {
      Caster caster;
      const object item = steal(PySequence_GetItem(source_.ptr(), i));
      if (!item.is_valid() || !caster.from_python(item, 0, nullptr) || !caster.template can_cast<Entry>())
        throw type_error("an item of a list is of another type.");
      values.push_back(caster.operator cast_t<Entry>());
    }
    return values;
  }

 private:
  handle source_;
};

// Holds the Python object.
template <class Type>
struct type_caster<std::shared_ptr<Type>> {
  static constexpr bool IsClass = true;
  using Value = std::shared_ptr<Type>;
  using Plain = std::decay_t<Type>;
  using Caster = make_caster<Type>;
  template <class>
  using Cast = Value;
  static constexpr auto Name = Caster::Name;

  bool from_python(handle given, std::uint32_t flags, cleanup_list* cleanup) noexcept {
    source_ = given;
    return caster_.from_python(given, flags & ~static_cast<std::uint32_t>(cast_flags::convert), cleanup);
  }
  template <class>
  bool can_cast() const noexcept {
    return true;
  }

  operator Value() {
    Plain* const object = caster_.operator Plain*();
    if (!object) return {};
    return Value(object, [source = source_.inc_ref()](Plain*) {
      if (!is_alive()) return;
      const gil_scoped_acquire acquire;
      source.dec_ref();
    });
  }

 private:
  Caster caster_;
  handle source_;
};

}  // namespace nanobind::detail
