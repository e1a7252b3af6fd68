// Torch's tensors as memory: read through DLPack's exchange of C functions, so that nothing here is built against
// torch.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>

namespace gatewise {

constexpr std::size_t kMaxDims = 3;

struct Shape {
  std::size_t dims = 0;
  std::int64_t size[kMaxDims] = {};

  Shape() = default;
  Shape(std::initializer_list<std::size_t> sizes) {
    for (const std::size_t each : sizes) size[dims++] = static_cast<std::int64_t>(each);
  }
  bool operator==(const Shape&) const = default;
  std::size_t count() const;
};

template <class Real>
constexpr nanobind::dlpack::dtype kFloat{static_cast<std::uint8_t>(nanobind::dlpack::dtype_code::Float),
                                         8 * sizeof(Real), 1};
constexpr nanobind::dlpack::dtype kBfloat{static_cast<std::uint8_t>(nanobind::dlpack::dtype_code::Bfloat), 16, 1};
constexpr nanobind::dlpack::dtype kInt64{static_cast<std::uint8_t>(nanobind::dlpack::dtype_code::Int), 64, 1};
constexpr nanobind::dlpack::dtype kBool{static_cast<std::uint8_t>(nanobind::dlpack::dtype_code::Bool), 8, 1};

// A tensor where it lies; strides in elements. It holds for as long as its tensor lives and is not changed.
struct View {
  void* address = nullptr;
  nanobind::dlpack::dtype dtype;
  Shape shape;
  std::int64_t stride[kMaxDims] = {};

  template <class T>
  T* data() const {
    return static_cast<T*>(address);
  }
  bool contiguous() const;
  // From the first element to the end of the last.
  std::int64_t extent() const;
};

// What is needed of torch. With the interpreter's lock only.
class Torch {
 public:
  using Exchange = int (*)(void* tensor, nanobind::dlpack::dltensor* to);

  // Null if there is no exchange of a version that is understood. `kinds` are the two types of tensors that are served;
  // results of `kept` elements on come from `empty`, and those of the dtype `half`; `dense` returns a tensor in one
  // piece that holds its values.
  static std::unique_ptr<Torch> make(nanobind::handle exchange, nanobind::tuple kinds, std::size_t kept,
                                     nanobind::object empty, nanobind::object half, nanobind::object dense);

  // Whether this is a tensor on the CPU, of at most kMaxDims dimensions, at an address that it may have.
  bool read(nanobind::handle tensor, View& to) const;
  // Whether the values of a tensor that was read are what its memory holds, and all of it is there: a storage may have
  // been made smaller than the tensors in it.
  bool holds(nanobind::handle tensor, const View& view) const;
  bool requires_grad(nanobind::handle tensor) const;
  // A tensor that is not initialised, of the dtype of `like`, which was read.
  nanobind::object empty(nanobind::handle like, const Shape& shape, View& to) const;
  // The same of bfloat16.
  nanobind::object empty_half(const Shape& shape, View& to) const;
  // The tensor or a copy of it, contiguous; null if it has another shape or dtype.
  nanobind::object dense(nanobind::handle tensor, const Shape& shape, nanobind::dlpack::dtype dtype, View& to) const;

 private:
  Torch(Exchange exchange, nanobind::tuple kinds, std::size_t kept, nanobind::object empty, nanobind::object half,
        nanobind::object dense);
  nanobind::object emptied(const Shape& shape, nanobind::handle dtype) const;
  nanobind::object checked(nanobind::object made, const Shape& shape, View& to) const;

  Exchange exchange_;
  std::size_t kept_;
  nanobind::object tensor_, parameter_, empty_, half_, dense_;
  nanobind::object dtype_, is_neg_, new_, offset_, requires_grad_, storage_;
};

}  // namespace gatewise
