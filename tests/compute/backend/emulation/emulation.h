// CUDA's words for a processor's compiler: threads of a phase run one after the other (see common.cuh).
#include <cmath>
#include <cstddef>
#include <cstring>
#include <utility>

#define RELION_PY_EMULATION
#define KERNEL(name, ...)                                                     \
    static void name(__VA_ARGS__);                                            \
    extern "C" void launch_##name(const int* sizes, void** arguments) {       \
        launch(name, sizes, arguments);                                       \
    }                                                                         \
    static void name(__VA_ARGS__)
#define DEVICE static inline
#define PHASE for (threadIdx.x = 0; threadIdx.x < blockDim.x; ++threadIdx.x)
#define BARRIER
#define SKIP continue
#define MAX_THREADS 128
#define PER_THREAD(type, name, size) static thread_local type name[MAX_THREADS][size]
#define OF(name) name[threadIdx.x]
// what the last block left must not be what the next one starts from: NaN, as near as any bytes come to it
#define SHARED(type, name, size) static thread_local type name[size]; std::memset(name, 0xff, sizeof(name))

struct Sizes { int x, y, z; };
// one device per thread of the process
static thread_local Sizes threadIdx, blockIdx, blockDim, gridDim;
struct alignas(8) float2 { float x, y; };

static inline float __int_as_float(int bits) { float value; std::memcpy(&value, &bits, 4); return value; }
template <class T> static inline T atomicAdd(T* address, T value) { T old = *address; *address += value; return old; }
using std::fabs;
using std::rint;

template <class... A, std::size_t... I>
static void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*(typename std::remove_reference<A>::type*)arguments[I]...);
}

template <class... A> static void launch(void (*kernel)(A...), const int* sizes, void** arguments) {
    gridDim = {sizes[0], sizes[1], sizes[2]};
    blockDim = {sizes[3], 1, 1};
    for (blockIdx.z = 0; blockIdx.z < gridDim.z; ++blockIdx.z)
        for (blockIdx.y = 0; blockIdx.y < gridDim.y; ++blockIdx.y)
            for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x)
                call(kernel, arguments, std::index_sequence_for<A...>());
}
