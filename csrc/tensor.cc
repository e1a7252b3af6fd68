#include "tensor.h"

#include <stdexcept>
#include <utility>

namespace nb = nanobind;

namespace gatewise {
namespace {

// The table behind a "dlpack_exchange_api" capsule, up to the function that is used. The head of every version is
// alike.
struct ExchangeHead {
  std::uint32_t major, minor;
  const ExchangeHead* older;
};

struct ExchangeTable {
  ExchangeHead head;
  void (*unused[3])();
  Torch::Exchange view;
};

constexpr std::uint32_t kMajor = 1;
constexpr std::int32_t kCpu = 1;

nb::object called(nb::handle name, nb::handle self) {
  PyObject* const arguments[] = {self.ptr()};
  PyObject* const result = PyObject_VectorcallMethod(name.ptr(), arguments, 1, nullptr);
  if (!result) nb::raise_python_error();
  return nb::steal(result);
}

std::int64_t number(nb::handle name, nb::handle self) {
  const std::int64_t value = PyLong_AsLongLong(called(name, self).ptr());
  if (value == -1 && PyErr_Occurred()) nb::raise_python_error();
  return value;
}

// Of an element, in whole bytes.
std::size_t size_of(const View& view) { return view.dtype.bits < 8 ? 1 : view.dtype.bits / 8; }

nb::object interned(const char* name) { return nb::steal(PyUnicode_InternFromString(name)); }

}  // namespace

std::size_t Shape::count() const {
  std::size_t count = 1;
  for (std::size_t i = 0; i < dims; ++i) count *= static_cast<std::size_t>(size[i]);
  return count;
}

bool View::contiguous() const {
  std::int64_t expected = 1;
  for (std::size_t i = shape.dims; i-- > 0; expected *= shape.size[i])
    if (shape.size[i] != 1 && stride[i] != expected) return false;
  return true;
}

std::int64_t View::extent() const {
  std::int64_t last = 0;
  for (std::size_t i = 0; i < shape.dims; ++i) last += (shape.size[i] - 1) * stride[i];
  return last + 1;
}

std::unique_ptr<Torch> Torch::make(nb::handle exchange, nb::tuple kinds, std::size_t kept, nb::object empty,
                                   nb::object half, nb::object dense) {
  if (exchange.is_none()) return nullptr;
  const void* pointer = PyCapsule_GetPointer(exchange.ptr(), "dlpack_exchange_api");
  if (!pointer) nb::raise_python_error();
  const auto* head = static_cast<const ExchangeHead*>(pointer);
  while (head && head->major != kMajor) head = head->older;
  const auto* table = reinterpret_cast<const ExchangeTable*>(head);
  if (!table || !table->view) return nullptr;
  return std::unique_ptr<Torch>(
      new Torch(table->view, kinds, kept, std::move(empty), std::move(half), std::move(dense)));
}

Torch::Torch(Exchange exchange, nb::tuple kinds, std::size_t kept, nb::object empty, nb::object half, nb::object dense)
    : exchange_(exchange),
      kept_(kept),
      tensor_(kinds[0]),
      parameter_(kinds[1]),
      empty_(std::move(empty)),
      half_(std::move(half)),
      dense_(std::move(dense)),
      dtype_(interned("dtype")),
      is_neg_(interned("is_neg")),
      new_(interned("new")),
      offset_(interned("storage_offset")),
      requires_grad_(interned("requires_grad")),
      storage_(interned("untyped_storage")) {}

bool Torch::read(nb::handle tensor, View& to) const {
  const auto* type = reinterpret_cast<PyObject*>(Py_TYPE(tensor.ptr()));
  if (type != tensor_.ptr() && type != parameter_.ptr()) return false;
  nb::dlpack::dltensor found;
  if (exchange_(tensor.ptr(), &found) != 0) {
    // Sparse, nested, on meta, a batch of torch.vmap and the like.
    PyErr_Clear();
    return false;
  }
  if (found.device.device_type != kCpu || found.ndim < 0) return false;
  if (found.ndim > static_cast<std::int32_t>(kMaxDims)) return false;
  to.dtype = found.dtype;
  to.shape = {};
  to.shape.dims = static_cast<std::size_t>(found.ndim);
  for (std::size_t i = 0; i < to.shape.dims; ++i) {
    to.shape.size[i] = found.shape[i];
    to.stride[i] = found.strides[i];
  }
  const auto address = reinterpret_cast<std::uintptr_t>(found.data) + found.byte_offset;
  to.address = reinterpret_cast<void*>(address);
  return found.data && address % size_of(to) == 0;
}

bool Torch::holds(nb::handle tensor, const View& view) const {
  if (called(is_neg_, tensor).ptr() != Py_False) return false;
  const std::int64_t end = number(offset_, tensor) + view.extent();
  const Py_ssize_t bytes = PyObject_Size(called(storage_, tensor).ptr());  // of a storage without a type
  if (bytes < 0) nb::raise_python_error();
  return end * static_cast<std::int64_t>(size_of(view)) <= static_cast<std::int64_t>(bytes);
}

bool Torch::requires_grad(nb::handle tensor) const { return nb::getattr(tensor, requires_grad_).ptr() == Py_True; }

nb::object Torch::empty(nb::handle like, const Shape& shape, View& to) const {
  nb::object made;
  if (shape.count() < kept_) {
    // The cheapest of torch's ways by far: dtype and device are those of `like`.
    nb::object sizes[kMaxDims];
    PyObject* arguments[1 + kMaxDims] = {like.ptr()};
    for (std::size_t i = 0; i < shape.dims; ++i) {
      sizes[i] = nb::int_(shape.size[i]);
      arguments[1 + i] = sizes[i].ptr();
    }
    made = nb::steal(PyObject_VectorcallMethod(new_.ptr(), arguments, 1 + shape.dims, nullptr));
    if (!made) nb::raise_python_error();
  } else {
    made = emptied(shape, nb::getattr(like, dtype_));
  }
  return checked(std::move(made), shape, to);
}

nb::object Torch::empty_half(const Shape& shape, View& to) const {
  nb::object made = checked(emptied(shape, half_), shape, to);
  if (to.dtype != kBfloat) throw std::runtime_error("torch made a tensor of another dtype.");
  return made;
}

nb::object Torch::emptied(const Shape& shape, nb::handle dtype) const {
  nb::list sizes;
  for (std::size_t i = 0; i < shape.dims; ++i) sizes.append(shape.size[i]);
  return empty_(sizes, dtype);
}

nb::object Torch::checked(nb::object made, const Shape& shape, View& to) const {
  if (!read(made, to) || to.shape != shape || !to.contiguous()) throw std::runtime_error("torch made another tensor.");
  return made;
}

nb::object Torch::dense(nb::handle tensor, const Shape& shape, nb::dlpack::dtype dtype, View& to) const {
  nb::object own = nb::borrow(tensor);
  if (!read(own, to) || !to.contiguous() || !holds(own, to)) {
    own = dense_(own);
    if (!read(own, to) || !to.contiguous()) return {};
  }
  return to.shape == shape && to.dtype == dtype ? own : nb::object();
}

}  // namespace gatewise
