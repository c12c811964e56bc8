// Auto-RGN's norms, in one pass over all weights and gradients, and its ratios: the operators, and their CPU
// kernels. The reference stands in strategies.py, by the same names. CUDA: rgn_cuda.cu.
//
//   ftcompare::grad_weight_norms
//     grad_norms[u] = sqrt(sum of squares of the gradients of unit u), weight_norms[u] likewise
//     weights  dense tensors, float32, bfloat16, float16 or float64, mixed, of any number of elements
//     grads    as many: None counts as zero, else as many elements as the weight, in any layout
//     unit     (tensors,) int64, on the weights' device: the unit of each tensor, 0 .. units - 1. Another is
//              an error on the CPU; on CUDA, where the host does not look, the tensor counts nowhere
//     returns  grad_norms, weight_norms, each (units,) float64
//
//   ftcompare::relative_ratios
//     ratios[u] = r[u] / max r, with r[u] = grad_norms[u] / weight_norms[u]
//     grad_norms, weight_norms  (units,) float64    layer  (units,) int64    head  (units,) bool
//     backbone  the maximum runs over the backbone, and the head gets 1
//     returns   ratios, (units,) float64, and whether they can be trusted, 0-d bool: not where a norm is not
//               finite or the maximum is 0
//
// The CPU kernel: every tensor is cut into chunks, chunks are dealt to the threads as these become free, and
// each sum is combined in an order that depends on the sizes only: the same bits for any number of threads.
// Squares are added up in kLanes lanes of float32, 32 in each before they are folded into double, which
// bounds the relative error of a norm by 1e-6.
//
// Top to bottom: what the operators check, the CPU kernels, the operators, the registration. The operators
// hand the work to _norms and _ratios, which each device implements: rgn_cuda.cu is a library of its own that
// adds them.

#include "rgn.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/zeros.h>
#include <torch/custom_class.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <optional>
#include <tuple>
#include <type_traits>
#include <vector>

namespace ftcompare {
namespace {

using at::Tensor;
using Norms = std::tuple<Tensor, Tensor>;
using Ratios = std::tuple<Tensor, Tensor>;

// ---------------------------------------------------------------------------------------------------- checks

Kind kind_of(const Tensor& t, const char* list, size_t i) {
  TORCH_CHECK_VALUE(t.layout() == at::kStrided, list, "[", i, "] is ", t.layout(),
                    "; a dense tensor is needed");
  switch (t.scalar_type()) {
    case at::kFloat: return kFloat32;
    case at::kBFloat16: return kBFloat16;
    case at::kHalf: return kFloat16;
    case at::kDouble: return kFloat64;
    default:
      TORCH_CHECK_VALUE(false, list, "[", i, "] is ", t.scalar_type(),
                        "; Float, BFloat16, Half or Double is needed");
  }
}

// The tensors of one call as plain pointers. Tensors with holes or overlaps in memory are copied first.
struct Pairs {
  std::vector<Pair> list;
  std::vector<Tensor> copies;
  c10::Device device;

  Pairs(c10::Device device, size_t tensors) : device(device) { list.reserve(tensors); }

  void add(const Tensor& weight, const Tensor* grad) {
    const size_t i = list.size();
    Pair pair{start_of(weight, "weights", i), nullptr, weight.numel(), kind_of(weight, "weights", i),
              kFloat32};
    if (grad) {
      TORCH_CHECK_VALUE(grad->numel() == pair.numel, "grads[", i, "] has shape ", grad->sizes(),
                        ", but weights[", i, "] has ", weight.sizes());
      pair.grad_kind = kind_of(*grad, "grads", i);
      pair.grad = start_of(*grad, "grads", i);
    }
    list.push_back(pair);
  }

 private:
  const void* start_of(const Tensor& t, const char* name, size_t i) {
    TORCH_CHECK_VALUE(t.device() == device, name, "[", i, "] is on ", t.device(), ", but unit on ", device);
    if (t.is_non_overlapping_and_dense()) return t.const_data_ptr();  // in any order of dimensions
    copies.push_back(t.contiguous());
    return copies.back().const_data_ptr();
  }
};

void check_unit(const Tensor& unit, size_t tensors, int64_t units) {
  TORCH_CHECK_VALUE(tensors > 0, "weights is an empty list");
  TORCH_CHECK_VALUE(unit.dim() == 1 && unit.numel() == static_cast<int64_t>(tensors) &&
                        unit.scalar_type() == at::kLong && unit.is_contiguous(),
                    "unit is ", unit.scalar_type(), " of shape ", unit.sizes(),
                    "; the unit of each weight is needed, Long of shape [", tensors, "]");
  TORCH_CHECK_VALUE(units > 0, "units is ", units, "; at least 1 is needed");
}

void check_ratios(const Tensor& grad_norms, const Tensor& weight_norms, const Tensor& layer,
                  const Tensor& head) {
  const std::tuple<const char*, const Tensor&, at::ScalarType> expected[] = {
      {"grad_norms", grad_norms, at::kDouble},
      {"weight_norms", weight_norms, at::kDouble},
      {"layer", layer, at::kLong},
      {"head", head, at::kBool}};
  for (const auto& [name, t, type] : expected) {
    TORCH_CHECK_VALUE(t.dim() == 1 && t.numel() == grad_norms.numel() && t.scalar_type() == type &&
                          t.is_contiguous() && t.device() == grad_norms.device(),
                      name, " is ", t.scalar_type(), " of shape ", t.sizes(), " on ", t.device(), "; ", type,
                      " of shape [", grad_norms.numel(), "] on ", grad_norms.device(), " is needed");
  }
}

// ------------------------------------------------------------------------------ CPU kernels: sums of squares

constexpr int64_t kChunk = 32768;  // elements: 128 KB of float32, about 10 us
constexpr int64_t kLanes = 64;
constexpr int64_t kPrefetch = 2048;     // bytes ahead: on a Xeon 10 to 15 % faster than without
constexpr int64_t kFold = 32 * kLanes;  // elements between two folds into double

template <typename Lane, typename T>
double lanes_sum_of_squares(const T* x, int64_t n) {
  Lane lane[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const char* ahead = reinterpret_cast<const char*>(x + i) + kPrefetch;
    for (size_t line = 0; line < kLanes * sizeof(T); line += 64) __builtin_prefetch(ahead + line);
    for (int64_t l = 0; l < kLanes; ++l) {
      const auto v = static_cast<Lane>(x[i + l]);
      lane[l] += v * v;
    }
  }
  double sum[kLanes];
  for (int64_t l = 0; l < kLanes; ++l) sum[l] = lane[l];
  for (int64_t l = 0; i < n; ++i, ++l) sum[l] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  for (int64_t width = kLanes / 2; width > 0; width /= 2) {
    for (int64_t l = 0; l < width; ++l) sum[l] += sum[l + width];
  }
  return sum[0];
}

template <typename T>
double sum_of_squares(const T* x, int64_t n) {
  double total = 0;
  if (n < kLanes) {
    for (int64_t i = 0; i < n; ++i) total += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    return total;
  }
  for (int64_t i = 0; i < n; i += kFold) {
    const int64_t count = std::min(kFold, n - i);
    double sum = 0;
    if constexpr (!std::is_same_v<T, double>) sum = lanes_sum_of_squares<float>(x + i, count);
    const bool safe = sum >= kSafeSum && sum <= std::numeric_limits<double>::max();
    total += safe ? sum : lanes_sum_of_squares<double>(x + i, count);
  }
  return total;
}

double sum_of_squares(const void* x, Kind kind, int64_t begin, int64_t n) {
  switch (kind) {
    case kFloat32: return sum_of_squares(static_cast<const float*>(x) + begin, n);
    case kBFloat16: return sum_of_squares(static_cast<const at::BFloat16*>(x) + begin, n);
    case kFloat16: return sum_of_squares(static_cast<const at::Half*>(x) + begin, n);
    default: return sum_of_squares(static_cast<const double*>(x) + begin, n);
  }
}

// -------------------------------------------------------------------------------- CPU kernels: norms, ratios

struct Chunk {
  int64_t pair, begin, count;  // elements begin .. begin + count of a weight and of its gradient
  double grad_square, weight_square;
};

Norms norms_cpu(int64_t pairs_address, const Tensor& unit, int64_t units) {
  const Pair* pairs = reinterpret_cast<const Pair*>(pairs_address);
  const int64_t* unit_of = unit.const_data_ptr<int64_t>();
  std::vector<Chunk> chunks;
  std::vector<size_t> starts{0};  // of the batches of chunks, which keep tiny tensors together
  int64_t in_batch = 0;
  for (int64_t i = 0; i < unit.numel(); ++i) {
    TORCH_CHECK_VALUE(0 <= unit_of[i] && unit_of[i] < units, "unit[", i, "] is ", unit_of[i], "; there are ",
                      units, " units");
    for (int64_t begin = 0; begin < pairs[i].numel; begin += kChunk) {
      chunks.push_back({i, begin, std::min(kChunk, pairs[i].numel - begin), 0, 0});
      in_batch += chunks.back().count;
      if (in_batch >= kChunk / 2) {
        starts.push_back(chunks.size());
        in_batch = 0;
      }
    }
  }
  if (starts.back() != chunks.size()) starts.push_back(chunks.size());

  const auto batches = static_cast<int64_t>(starts.size()) - 1;
  std::atomic<int64_t> next{0};
  at::parallel_for(0, std::min<int64_t>(at::get_num_threads(), batches), 1, [&](int64_t, int64_t) {
    for (int64_t batch; (batch = next.fetch_add(1)) < batches;) {
      for (size_t c = starts[batch]; c < starts[batch + 1]; ++c) {
        Chunk& chunk = chunks[c];
        const Pair& pair = pairs[chunk.pair];
        chunk.weight_square = sum_of_squares(pair.weight, pair.weight_kind, chunk.begin, chunk.count);
        if (pair.grad)
          chunk.grad_square = sum_of_squares(pair.grad, pair.grad_kind, chunk.begin, chunk.count);
      }
    }
  });

  const auto options = at::TensorOptions().dtype(at::kDouble);
  Tensor grad_norms = at::zeros({units}, options), weight_norms = at::zeros({units}, options);
  double* grad = grad_norms.mutable_data_ptr<double>();
  double* weight = weight_norms.mutable_data_ptr<double>();
  for (const Chunk& chunk : chunks) {
    grad[unit_of[chunk.pair]] += chunk.grad_square;
    weight[unit_of[chunk.pair]] += chunk.weight_square;
  }
  for (int64_t u = 0; u < units; ++u) {
    grad[u] = std::sqrt(grad[u]);
    weight[u] = std::sqrt(weight[u]);
  }
  return {grad_norms, weight_norms};
}

Ratios ratios_cpu(const Tensor& grad_norms, const Tensor& weight_norms, const Tensor& layer,
                  const Tensor& head, bool backbone) {
  const int64_t units = grad_norms.numel();
  const double *grad = grad_norms.const_data_ptr<double>(), *weight = weight_norms.const_data_ptr<double>();
  const int64_t* layer_of = layer.const_data_ptr<int64_t>();
  const bool* is_head = head.const_data_ptr<bool>();

  Tensor ratios = at::empty_like(grad_norms);
  double* ratio = ratios.mutable_data_ptr<double>();
  std::vector<double> layer_grad(units), layer_weight(units);  // sums of squares
  for (int64_t u = 0; u < units; ++u) {
    TORCH_CHECK_VALUE(0 <= layer_of[u] && layer_of[u] < units, "layer[", u, "] is ", layer_of[u],
                      "; there are ", units, " units");
    layer_grad[layer_of[u]] += grad[u] * grad[u];
    layer_weight[layer_of[u]] += weight[u] * weight[u];
  }
  constexpr double kUndefined = -1;  // neither the unit nor its layer has a weight
  double maximum = 0;
  bool trusted = true;
  for (int64_t u = 0; u < units; ++u) {
    const double g = layer_grad[layer_of[u]], w = layer_weight[layer_of[u]];
    ratio[u] = weight[u] > 0 ? grad[u] / weight[u] : w > 0 ? std::sqrt(g / w) : kUndefined;
    if (!(backbone && is_head[u])) maximum = std::max(maximum, ratio[u]);
    trusted = trusted && std::isfinite(grad[u]) && std::isfinite(weight[u]);
  }
  trusted = trusted && maximum > 0;

  for (int64_t u = 0; u < units; ++u) {
    ratio[u] = ratio[u] == kUndefined || (backbone && is_head[u]) ? 1.0 : ratio[u] / maximum;
  }
  return {ratios, at::scalar_tensor(trusted, at::kBool)};
}

// ------------------------------------------------------------------------------------------------- operators

Norms dispatch_norms(const Pairs& pairs, const Tensor& unit, int64_t units) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("ftcompare::_norms", "").typed<decltype(norms_cpu)>();
  return op.call(reinterpret_cast<int64_t>(pairs.list.data()), unit, units);
}

Norms grad_weight_norms(at::TensorList weights, const c10::List<std::optional<Tensor>>& grads,
                        const Tensor& unit, int64_t units) {
  check_unit(unit, weights.size(), units);
  TORCH_CHECK_VALUE(grads.size() == weights.size(), "there are ", weights.size(), " weights, but ",
                    grads.size(), " grads");
  Pairs pairs(unit.device(), weights.size());
  for (size_t i = 0; i < weights.size(); ++i) {
    const std::optional<Tensor> grad = grads.get(i);
    pairs.add(weights[i], grad ? &*grad : nullptr);
  }
  return dispatch_norms(pairs, unit, units);
}

Ratios relative_ratios(const Tensor& grad_norms, const Tensor& weight_norms, const Tensor& layer,
                       const Tensor& head, bool backbone) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("ftcompare::_ratios", "").typed<decltype(ratios_cpu)>();
  check_ratios(grad_norms, weight_norms, layer, head);
  return op.call(grad_norms, weight_norms, layer, head, backbone);
}

// Passing hundreds of tensors from Python costs 100 us a call: this holds them and reads their gradients.
struct HeldNorms : torch::CustomClassHolder {
  std::vector<Tensor> parameters;
  Tensor unit;
  int64_t units;

  HeldNorms(std::vector<Tensor> parameters, Tensor unit, int64_t units)
      : parameters(std::move(parameters)), unit(std::move(unit)), units(units) {
    check_unit(this->unit, this->parameters.size(), units);
  }

  // grad_weight_norms of the parameters and of their .grad as it is now. The model may have moved.
  Norms norms() {
    const at::NoGradGuard no_grad;
    if (unit.device() != parameters[0].device()) unit = unit.to(parameters[0].device());
    Pairs pairs(unit.device(), parameters.size());
    for (const Tensor& parameter : parameters) {
      const Tensor& grad = parameter.grad();
      pairs.add(parameter, grad.defined() ? &grad : nullptr);
    }
    return dispatch_norms(pairs, unit, units);
  }
};

// Shapes alone, for torch.compile and opcheck.
Norms grad_weight_norms_meta(at::TensorList, const c10::List<std::optional<Tensor>>&, const Tensor& unit,
                             int64_t units) {
  const auto options = unit.options().dtype(at::kDouble);
  return {at::empty({units}, options), at::empty({units}, options)};
}

Ratios relative_ratios_meta(const Tensor& grad_norms, const Tensor&, const Tensor&, const Tensor& head,
                            bool) {
  return {at::empty_like(grad_norms), at::empty({}, head.options())};
}

}  // namespace

// ---------------------------------------------------------------------------------------------- registration

TORCH_LIBRARY(ftcompare, m) {
  m.def("grad_weight_norms(Tensor[] weights, Tensor?[] grads, Tensor unit, int units) -> (Tensor, Tensor)");
  m.def("_norms(int pairs_address, Tensor unit, int units) -> (Tensor, Tensor)");
  const std::string ratios =
      "(Tensor grad_norms, Tensor weight_norms, Tensor layer, Tensor head, bool backbone)"
      " -> (Tensor, Tensor)";
  m.def(("relative_ratios" + ratios).c_str());
  m.def(("_ratios" + ratios).c_str());
  m.class_<HeldNorms>("HeldNorms")
      .def(torch::init<std::vector<Tensor>, Tensor, int64_t>())
      .def("norms", &HeldNorms::norms);
}

TORCH_LIBRARY_IMPL(ftcompare, CompositeExplicitAutograd, m) {
  m.impl("grad_weight_norms", grad_weight_norms);
  m.impl("relative_ratios", relative_ratios);
}

TORCH_LIBRARY_IMPL(ftcompare, CPU, m) {
  m.impl("_norms", norms_cpu);
  m.impl("_ratios", ratios_cpu);
}

TORCH_LIBRARY_IMPL(ftcompare, Meta, m) {
  m.impl("grad_weight_norms", grad_weight_norms_meta);
  m.impl("relative_ratios", relative_ratios_meta);
}

}  // namespace ftcompare
