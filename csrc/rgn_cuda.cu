// Auto-RGN's norms and ratios on CUDA. What goes in and out of the operators stands in rgn.cpp's head.
//
// Formula
//   square(x)      = sum of x_k^2 over the elements of a tensor
//   grad_norms[u]  = sqrt(sum of square(gradient of i) over tensors i of unit u), weight_norms[u] likewise
//   r[u]           = grad_norms[u] / weight_norms[u]; where weight_norms[u] is 0, the r of its whole layer
//   ratios[u]      = r[u] / max r; 1 where r[u] is undefined; with `backbone` the head is left out and gets 1
//
// Tensor contract
//   Weights and gradients are read once, as they lie in memory: dense, any order of dimensions, any start,
//   any number of elements. 16 bytes a load; the elements before the first 16-byte boundary and after the
//   last one by one. Pointers and sizes travel as kernel arguments: nothing is copied to the device, nothing
//   is kept between calls, so gradients may move, calls may overlap on several streams and devices, and a
//   call can be captured in a CUDA graph. Results stay on the device; the host never waits. No atomics: the
//   same bits each run.
//
// Launches, all on the current stream
//   chunk_squares   <<<(chunks, 2), 256>>>  a block adds up 4K to 16K elements of a gradient or weight.
//                                           One launch takes 512 tensors in 15 KB of arguments; or 128 in 4
//                                           KB, if there are no more or the driver is older than CUDA 12.1
//   unit_norms      <<<1, 1024>>>           chunks -> tensors -> units, in double, in a fixed order
//   relative_ratios <<<1, 1024>>>           units -> maximum -> ratios
//
// 256 threads and 32 registers: 8 blocks fill an SM's 2,048 threads, each with four 16-byte loads in flight.
// FTCOMPARE_KERNELS_ONLY leaves out PyTorch's half at the end, for a look at registers and spills in seconds.

#include "rgn.h"

#include <c10/cuda/CUDAException.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cfloat>
#include <climits>
#include <type_traits>

namespace ftcompare {
namespace {

constexpr int kThreads = 256;
constexpr int kOneBlock = 1024;
constexpr int kWarp = 32;
constexpr unsigned kAll = 0xffffffff;
constexpr int kSmall = 128;
constexpr int kLarge = CUDART_VERSION >= 12010 ? 512 : kSmall;  // more than 4 KB of arguments

// Some of the pairs, by value. first_chunk counts from the launch's first block.
template <int kCapacity>
struct Table {
  const void* weight[kCapacity];
  const void* grad[kCapacity];
  int64_t numel[kCapacity];
  int first_chunk[kCapacity];
  Kind weight_kind[kCapacity], grad_kind[kCapacity];
  int count, chunk_elements;
};

// --------------------------------------------------------------------------------------------------- helpers

__device__ float widen(float x) { return x; }
__device__ float widen(__half x) { return __half2float(x); }
__device__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ double widen(double x) { return x; }
__device__ float squared(float x) { return x * x; }

__device__ double2 operator+(double2 a, double2 b) { return make_double2(a.x + b.x, a.y + b.y); }

template <typename T>
struct alignas(16) Vector {
  static constexpr int kElements = 16 / sizeof(T);
  T element[kElements];

  __device__ float sum_of_squares() const {
    float sum = 0;
#pragma unroll
    for (int k = 0; k < kElements; ++k) sum += squared(widen(element[k]));
    return sum;
  }
};

// This thread's share of the n elements that the block adds up. Several sums: short chains of roundings.
template <typename T>
__device__ double fast_share(const T* x, int n) {
  constexpr int kLoads = 4;
  const int head = min(n, static_cast<int>(-reinterpret_cast<uintptr_t>(x) % 16 / sizeof(T)));
  const auto* body = reinterpret_cast<const Vector<T>*>(x + head);
  const int vectors = (n - head) / Vector<T>::kElements;
  float sum[kLoads] = {};
  int v = threadIdx.x;
#pragma unroll 1  // here and below: unrolled further, 32 registers do not suffice
  for (; v + (kLoads - 1) * kThreads < vectors; v += kLoads * kThreads) {
    Vector<T> loaded[kLoads];
#pragma unroll
    for (int k = 0; k < kLoads; ++k) loaded[k] = body[v + k * kThreads];
#pragma unroll
    for (int k = 0; k < kLoads; ++k) sum[k] += loaded[k].sum_of_squares();
  }
#pragma unroll 1
  for (; v < vectors; v += kThreads) {
    const Vector<T> loaded = body[v];
    sum[0] += loaded.sum_of_squares();
  }
  if (threadIdx.x < head) sum[1] += squared(widen(x[threadIdx.x]));
  const int tail = head + vectors * Vector<T>::kElements + threadIdx.x;  // fewer than kThreads are left
  if (tail < n) sum[2] += squared(widen(x[tail]));
  return (static_cast<double>(sum[0]) + sum[1]) + (static_cast<double>(sum[2]) + sum[3]);
}

template <typename T>
__device__ double exact_share(const T* x, int n) {
  double sum = 0;
#pragma unroll 1
  for (int k = threadIdx.x; k < n; k += kThreads) {
    const double value = widen(x[k]);
    sum += value * value;
  }
  return sum;
}

struct Plus {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Maximum {
  __device__ double operator()(double a, double b) const { return max(a, b); }
};

template <typename Op>
__device__ double warp_reduce(double x, Op op) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) x = op(x, __shfl_xor_sync(kAll, x, offset));
  return x;
}

__device__ double2 warp_sum(double2 x) {
  return make_double2(warp_reduce(x.x, Plus()), warp_reduce(x.y, Plus()));
}

// Every thread of the block gets the result.
template <int kBlock, typename Op>
__device__ double block_reduce(double x, Op op) {
  __shared__ double of_warp[kBlock / kWarp];
  x = warp_reduce(x, op);
  __syncthreads();  // of_warp may still be read from the call before
  if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = x;
  __syncthreads();
  x = of_warp[0];
  for (int w = 1; w < kBlock / kWarp; ++w) x = op(x, of_warp[w]);
  return x;
}

template <typename T>
__device__ double block_squares(const T* x, int n) {
  if constexpr (!std::is_same_v<T, double>) {
    const double sum = block_reduce<kThreads>(fast_share(x, n), Plus());
    if (sum >= kSafeSum && sum <= DBL_MAX) return sum;
  }
  return block_reduce<kThreads>(exact_share(x, n), Plus());
}

__device__ double block_squares(const void* x, Kind kind, int64_t begin, int n) {
  switch (kind) {
    case kFloat32: return block_squares(static_cast<const float*>(x) + begin, n);
    case kBFloat16: return block_squares(static_cast<const __nv_bfloat16*>(x) + begin, n);
    case kFloat16: return block_squares(static_cast<const __half*>(x) + begin, n);
    default: return block_squares(static_cast<const double*>(x) + begin, n);
  }
}

// --------------------------------------------------------------------------------------------------- kernels

template <int kCapacity>
__global__ void __launch_bounds__(kThreads, 2048 / kThreads)
    chunk_squares(const __grid_constant__ Table<kCapacity> table, double* partial, int* first_chunk,
                  int chunks_before) {
  const int chunk = blockIdx.x;
  int i = 0;  // the tensor: the last one whose first chunk is not after this one
  for (int end = table.count; end - i > 1;) {
    const int middle = (i + end) / 2;
    if (table.first_chunk[middle] <= chunk)
      i = middle;
    else
      end = middle;
  }
  const int64_t begin = static_cast<int64_t>(chunk - table.first_chunk[i]) * table.chunk_elements;
  const int n = static_cast<int>(min(static_cast<int64_t>(table.chunk_elements), table.numel[i] - begin));
  const bool is_grad = blockIdx.y == 0;
  const void* x = is_grad ? table.grad[i] : table.weight[i];
  const double square =
      x ? block_squares(x, is_grad ? table.grad_kind[i] : table.weight_kind[i], begin, n) : 0;
  if (threadIdx.x == 0) {
    partial[2 * (chunks_before + chunk) + blockIdx.y] = square;
    if (begin == 0) first_chunk[i] = chunks_before + chunk;  // both blocks of this chunk write the same
  }
}

__global__ void __launch_bounds__(kOneBlock)
    unit_norms(const double2* partial, int chunks, const int* first_chunk, double2* square, int tensors,
               const int64_t* unit, int units, double* grad_norms, double* weight_norms) {
  const int lane = threadIdx.x % kWarp;
  for (int i = threadIdx.x / kWarp; i < tensors; i += kOneBlock / kWarp) {  // a warp per tensor
    const int end = i + 1 < tensors ? first_chunk[i + 1] : chunks;
    double2 sum = make_double2(0, 0);
    for (int c = first_chunk[i] + lane; c < end; c += kWarp) sum = sum + partial[c];
    sum = warp_sum(sum);
    if (lane == 0) square[i] = sum;
  }
  __syncthreads();
  for (int u = threadIdx.x / kWarp; u < units; u += kOneBlock / kWarp) {  // a warp per unit
    double2 sum = make_double2(0, 0);
    for (int i = lane; i < tensors; i += kWarp) {
      if (unit[i] == u) sum = sum + square[i];
    }
    sum = warp_sum(sum);
    if (lane == 0) {
      grad_norms[u] = sqrt(sum.x);
      weight_norms[u] = sqrt(sum.y);
    }
  }
}

__global__ void __launch_bounds__(kOneBlock)
    relative_ratios(const double* grad_norms, const double* weight_norms, const int64_t* layer,
                    const bool* head, bool backbone, int units, double* ratios, bool* trusted) {
  constexpr double kUndefined = -1;
  double maximum = 0;
  bool finite = true;
  for (int u = threadIdx.x; u < units; u += kOneBlock) {
    double g = grad_norms[u], w = weight_norms[u];
    finite = finite && isfinite(g) && isfinite(w);
    if (!(w > 0)) {
      double2 square = make_double2(0, 0);
      for (int v = 0; v < units; ++v) {
        if (layer[v] == layer[u]) {
          square = square + make_double2(grad_norms[v] * grad_norms[v], weight_norms[v] * weight_norms[v]);
        }
      }
      g = sqrt(square.x);
      w = sqrt(square.y);
    }
    ratios[u] = w > 0 ? g / w : kUndefined;  // r, read again below by the same thread
    if (!(backbone && head[u])) maximum = max(maximum, ratios[u]);
  }
  maximum = block_reduce<kOneBlock>(maximum, Maximum());
  const bool usable = __syncthreads_and(finite) && maximum > 0;
  for (int u = threadIdx.x; u < units; u += kOneBlock) {
    ratios[u] = ratios[u] == kUndefined || (backbone && head[u]) ? 1.0 : ratios[u] / maximum;
  }
  if (threadIdx.x == 0) *trusted = usable;
}

}  // namespace

// ------------------------------------------------------------------------------------------------- launchers

// An empty tensor has one too, of no elements.
inline int64_t chunks_of(const Pair& pair, int chunk_elements) {
  return std::max<int64_t>(1, (pair.numel + chunk_elements - 1) / chunk_elements);
}

template <int kCapacity>
void launch_chunk_squares(const Pair* pairs, int tensors, int chunk_elements, double2* partial,
                          int* first_chunk, cudaStream_t stream) {
  Table<kCapacity> table;
  table.chunk_elements = chunk_elements;
  int chunks_before = 0;
  for (int done = 0; done < tensors; done += table.count) {
    table.count = std::min(kCapacity, tensors - done);
    int chunks = 0;
    for (int i = 0; i < table.count; ++i) {
      const Pair& pair = pairs[done + i];
      table.weight[i] = pair.weight;
      table.grad[i] = pair.grad;
      table.numel[i] = pair.numel;
      table.first_chunk[i] = chunks;
      table.weight_kind[i] = pair.weight_kind;
      table.grad_kind[i] = pair.grad_kind;
      chunks += static_cast<int>(chunks_of(pair, chunk_elements));
    }
    chunk_squares<kCapacity>
        <<<dim3(chunks, 2), kThreads, 0, stream>>>(table, &partial->x, first_chunk + done, chunks_before);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
    chunks_before += chunks;
  }
}

void launch_norms(const Pair* pairs, int tensors, int chunk_elements, double2* partial, int chunks,
                  int* first_chunk, double2* square, const int64_t* unit, int units, double* grad_norms,
                  double* weight_norms, cudaStream_t stream) {
  static const bool large_arguments = [] {
    int version = 0;
    C10_CUDA_CHECK(cudaDriverGetVersion(&version));
    return version >= 12010;
  }();
  const auto launch =
      large_arguments && tensors > kSmall ? launch_chunk_squares<kLarge> : launch_chunk_squares<kSmall>;
  launch(pairs, tensors, chunk_elements, partial, first_chunk, stream);
  unit_norms<<<1, kOneBlock, 0, stream>>>(partial, chunks, first_chunk, square, tensors, unit, units,
                                          grad_norms, weight_norms);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

void launch_relative_ratios(const double* grad_norms, const double* weight_norms, const int64_t* layer,
                            const bool* head, bool backbone, int units, double* ratios, bool* trusted,
                            cudaStream_t stream) {
  relative_ratios<<<1, kOneBlock, 0, stream>>>(grad_norms, weight_norms, layer, head, backbone, units, ratios,
                                               trusted);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace ftcompare

// --------------------------------------------------------------------------------- PyTorch: the registration

#ifndef FTCOMPARE_KERNELS_ONLY
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <tuple>

namespace ftcompare {
namespace {

using at::Tensor;

// Enough chunks to keep every SM busy to the end, so few that a block's overhead (about 1 us) does not count.
int chunk_elements_for(const Pair* pairs, int64_t tensors, int device) {
  int multiprocessors = 0;
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
  int64_t numel = 0;
  for (int64_t i = 0; i < tensors; ++i) numel += pairs[i].numel;
  int elements = 4096;
  while (elements < 16384 && elements * int64_t{32} * multiprocessors < numel) elements *= 2;
  return elements;
}

std::tuple<Tensor, Tensor> norms_cuda(int64_t pairs_address, const Tensor& unit, int64_t units) {
  const Pair* pairs = reinterpret_cast<const Pair*>(pairs_address);
  const c10::cuda::CUDAGuard guard(unit.device());
  const int64_t tensors = unit.numel();
  const int chunk_elements = chunk_elements_for(pairs, tensors, unit.device().index());
  int64_t chunks = 0;
  for (int64_t i = 0; i < tensors; ++i) chunks += chunks_of(pairs[i], chunk_elements);
  TORCH_CHECK(chunks < INT_MAX && units < INT_MAX, "too many elements: ", chunks, " chunks of ",
              chunk_elements);

  // One allocation for what the kernels hand to one another. The caching allocator gives it away on this
  // stream only, to kernels that run after these.
  const auto options = at::TensorOptions().device(unit.device()).dtype(at::kDouble);
  Tensor scratch = at::empty({2 * chunks + 2 * tensors + (tensors + 1) / 2}, options);
  auto* partial = reinterpret_cast<double2*>(scratch.mutable_data_ptr<double>());
  auto* square = partial + chunks;
  auto* first_chunk = reinterpret_cast<int*>(square + tensors);
  Tensor grad_norms = at::empty({units}, options), weight_norms = at::empty({units}, options);
  launch_norms(pairs, static_cast<int>(tensors), chunk_elements, partial, static_cast<int>(chunks),
               first_chunk, square, unit.const_data_ptr<int64_t>(), static_cast<int>(units),
               grad_norms.mutable_data_ptr<double>(), weight_norms.mutable_data_ptr<double>(),
               c10::cuda::getCurrentCUDAStream());
  return {grad_norms, weight_norms};
}

std::tuple<Tensor, Tensor> ratios_cuda(const Tensor& grad_norms, const Tensor& weight_norms,
                                       const Tensor& layer, const Tensor& head, bool backbone) {
  const c10::cuda::CUDAGuard guard(grad_norms.device());
  Tensor ratios = at::empty_like(grad_norms), trusted = at::empty({}, head.options());
  launch_relative_ratios(grad_norms.const_data_ptr<double>(), weight_norms.const_data_ptr<double>(),
                         layer.const_data_ptr<int64_t>(), head.const_data_ptr<bool>(), backbone,
                         static_cast<int>(grad_norms.numel()), ratios.mutable_data_ptr<double>(),
                         trusted.mutable_data_ptr<bool>(), c10::cuda::getCurrentCUDAStream());
  return {ratios, trusted};
}

}  // namespace

TORCH_LIBRARY_IMPL(ftcompare, CUDA, m) {
  m.impl("_norms", norms_cuda);
  m.impl("_ratios", ratios_cuda);
}

}  // namespace ftcompare
#endif
