// What CUDA C++ gives to a kernel's text, on a CPU: threads of a block as fibers, barriers, shuffles, matrix instructions.
//
// Of a launch one block runs at a time, its threads one after the other, each until it waits for others. Every thread of
// the calling program has a machine of its own, so that launches of several run side by side. What a device forbids and a
// race depends on is made visible: memory outside an allocation faults (guard pages), fresh memory is filled with NaN,
// a barrier that not all threads reach is an error, misaligned vectors are an error, and the order of blocks, warps and
// lanes and the time of asynchronous copies are chosen by the caller: results that depend on them are wrong.
#pragma once

#include <cmath>
#include <csetjmp>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include <signal.h>
#include <sys/mman.h>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#define EMULATOR 1
#define __global__
#define __device__
#define __forceinline__ inline __attribute__((always_inline))

struct uint2 { unsigned x, y; } __attribute__((aligned(8)));
struct uint4 { unsigned x, y, z, w; } __attribute__((aligned(16)));
struct float2 { float x, y; } __attribute__((aligned(8)));
struct float4 { float x, y, z, w; } __attribute__((aligned(16)));
struct Index3 { unsigned x, y, z; };

namespace emu {

constexpr int WARP = 32, MAX_THREADS = 1024;
constexpr size_t STACK = 128 << 10, PAGE = 4096;

/// What a thread waits for.
enum class State { Ready, Warp, Block, Done };

/// A copy from device to shared memory that has not happened yet.
struct Copy { void* to; const void* from; unsigned bytes, valid; };

/// What all lanes of a mask do together: gets each lane's arguments.
using Collective = void (*)(void* const* lanes, unsigned mask);

struct Thread {
    Index3 index;
    int number, lane;
    State state;
    Collective collective;
    void* arguments;
    unsigned mask;
    std::vector<std::vector<Copy>> copies;
    void* stack;
#if defined(__x86_64__)
    void* pointer;
#else
    ucontext_t context;
#endif
};

/// In which order things happen that a device does in any order.
struct Order { unsigned seed; bool reverse, shuffle, late_copies; };

// The state of one launch, for each thread of the calling program. Kernels read it all the time: `__thread` has no
// check for a constructor, as `thread_local` has.
inline __thread Thread* threads;
inline __thread Thread* current;
inline __thread Index3 grid_size, block_size, block_index;
inline __thread unsigned char* shared_memory;
inline __thread size_t shared_bytes;
inline __thread Order order;
inline __thread const char* kernel_name;
inline __thread char* message;
inline __thread sigjmp_buf* failure;
constexpr size_t MESSAGE = 1024;

[[noreturn]] __attribute__((format(printf, 1, 2))) inline void fail(const char* text, ...) {
    char what[512];
    va_list list;
    va_start(list, text);
    vsnprintf(what, sizeof what, text, list);
    va_end(list);
    snprintf(message, MESSAGE, "%s, block %u,%u,%u, thread %d: %s", kernel_name, block_index.x, block_index.y,
             block_index.z, current ? current->number : -1, what);
    siglongjmp(*failure, 1);
}

// Fibers.

inline __thread void (*body)();

#if defined(__x86_64__)
inline __thread void* scheduler;
extern "C" void emu_switch(void** save, void* load);
asm(R"(
.text
.hidden emu_switch
.globl emu_switch
emu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");
inline void leave() { emu_switch(&current->pointer, scheduler); }
inline void enter(Thread& thread) {
    current = &thread;
    emu_switch(&scheduler, thread.pointer);
}
#else
inline __thread ucontext_t scheduler;
inline void leave() { swapcontext(&current->context, &scheduler); }
inline void enter(Thread& thread) {
    current = &thread;
    swapcontext(&scheduler, &thread.context);
}
#endif

inline void start() {
    body();
    current->state = State::Done;
    leave();
    __builtin_unreachable();
}

/// Stacks begin at different places in their pages. At the same place, the hot lines of all stacks of a warp would be in
/// few sets of the first cache, and drive each other out.
constexpr size_t STAGGER = 320;

inline void prepare(Thread& thread) {
    if (!thread.stack) {
        void* memory = mmap(nullptr, STACK + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) fail("no memory for a fiber's stack");
        mprotect(memory, PAGE, PROT_NONE);
        thread.stack = static_cast<char*>(memory) + PAGE;
    }
    thread.state = State::Ready;
    if (thread.copies.size() != 1 || !thread.copies[0].empty()) thread.copies.assign(1, {});
#if defined(__x86_64__)
    size_t below = thread.number * STAGGER % PAGE;
    void** top = reinterpret_cast<void**>(static_cast<char*>(thread.stack) + STACK - below);
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(start);
    for (int i = 0; i < 6; i++) *--top = nullptr;
    thread.pointer = top;
#else
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.stack;
    thread.context.uc_stack.ss_size = STACK;
    thread.context.uc_link = nullptr;
    makecontext(&thread.context, start, 0);
#endif
}

// Waiting.

inline void barrier() {
    current->state = State::Block;
    leave();
}

inline void together(Collective collective, void* arguments, unsigned mask = 0xffffffffu) {
    Thread* self = current;
    if (!(mask >> self->lane & 1)) fail("a lane that is not in its own mask %08x", mask);
    self->state = State::Warp;
    self->collective = collective;
    self->arguments = arguments;
    self->mask = mask;
    leave();
}

/// Executes what lanes of this warp wait for, where all of a mask have come.
inline bool collect(Thread* warp) {
    bool any = false;
    for (int lane = 0; lane < WARP; lane++) {
        Thread& thread = warp[lane];
        if (thread.state != State::Warp) continue;
        void* arguments[WARP];
        bool all = true;
        for (int other = 0; other < WARP && all; other++) {
            if (!(thread.mask >> other & 1)) continue;
            Thread& partner = warp[other];
            all = partner.state == State::Warp && partner.mask == thread.mask && partner.collective == thread.collective;
            arguments[other] = partner.arguments;
        }
        if (!all) continue;
        current = &thread;
        thread.collective(arguments, thread.mask);
        for (int other = 0; other < WARP; other++)
            if (thread.mask >> other & 1) warp[other].state = State::Ready;
        if (thread.mask == 0xffffffffu) return true;
        any = true;
    }
    return any;
}

/// Place i of n in the order that was asked for.
inline unsigned place(unsigned i, unsigned n) {
    if (order.reverse) return n - 1 - i;
    if (!order.shuffle || n < 2) return i;
    // A step that shares no factor with n visits each place once.
    unsigned step = order.seed % n | 1;
    auto common = [](unsigned a, unsigned b) {
        while (b) { unsigned c = a % b; a = b; b = c; }
        return a;
    };
    while (common(step, n) != 1) step++;
    return static_cast<unsigned>((static_cast<uint64_t>(i) * step + order.seed) % n);
}

inline void run_block(unsigned count) {
    Thread* const threads = emu::threads;
    unsigned lanes[WARP];
    for (unsigned l = 0; l < WARP; l++) lanes[l] = place(l, WARP);
    for (unsigned i = 0; i < count; i++) prepare(threads[i]);
    for (;;) {
        for (unsigned w = 0; w < count / WARP; w++) {
            Thread* warp = threads + WARP * place(w, count / WARP);
            do {
                for (unsigned l = 0; l < WARP; l++) {
                    Thread& thread = warp[lanes[l]];
                    if (thread.state == State::Ready) enter(thread);
                }
            } while (collect(warp));
        }
        unsigned done = 0, waiting = 0;
        Thread* stuck = nullptr;
        for (unsigned i = 0; i < count; i++) {
            done += threads[i].state == State::Done;
            waiting += threads[i].state == State::Block;
            if (threads[i].state == State::Warp && !stuck) stuck = &threads[i];
        }
        current = stuck;
        if (stuck) fail("waits for lanes of mask %08x that do not come", stuck->mask);
        if (done == count) return;
        if (waiting != count) fail("a barrier that %u of %u threads reach", waiting, count);
        for (unsigned i = 0; i < count; i++) threads[i].state = State::Ready;
    }
}

// Memory.

/// `owner` is the emulator that it was made for.
struct Allocation { unsigned char *map, *begin; size_t mapped, bytes, owner; };
inline std::vector<Allocation> allocations;
inline std::mutex allocations_lock;

/// Memory whose end is the end of a page, with pages that fault on both sides.
inline Allocation guarded(size_t bytes, size_t owner) {
    size_t padded = (bytes + 15) / 16 * 16, pages = (padded + PAGE - 1) / PAGE * PAGE;
    Allocation a{nullptr, nullptr, pages + 2 * PAGE, bytes, owner};
    void* map = mmap(nullptr, a.mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) return a;
    a.map = static_cast<unsigned char*>(map);
    mprotect(a.map + PAGE, pages, PROT_READ | PROT_WRITE);
    a.begin = a.map + PAGE + pages - padded;
    memset(a.begin, 0xff, padded);
    return a;
}

/// Whether the bytes that round an allocation up to 16 were left alone; they are made good, so that it is told once.
inline bool intact(const Allocation& a) {
    bool all = true;
    for (size_t i = a.bytes; i < (a.bytes + 15) / 16 * 16; i++) {
        all &= a.begin[i] == 0xff;
        a.begin[i] = 0xff;
    }
    return all;
}

inline void aligned(const void* pointer, size_t to) {
    if (reinterpret_cast<uintptr_t>(pointer) % to) fail("%p is not at a multiple of %zu", pointer, to);
}

/// Shared memory from byte `at` on, which has `bytes` more, at a multiple of as many.
inline void* in_shared(uint32_t at, size_t bytes) {
    if (at + bytes > shared_bytes) fail("byte %u of %zu of shared memory", at, shared_bytes);
    aligned(shared_memory + at, bytes);
    return shared_memory + at;
}

inline struct sigaction old_segv, old_bus;

/// A fault in a kernel ends its launch; any other is for whoever handled it before.
inline void faulted(int signal, siginfo_t* info, void* context) {
    if (!failure) {
        const struct sigaction& old = signal == SIGBUS ? old_bus : old_segv;
        if (old.sa_flags & SA_SIGINFO) return old.sa_sigaction(signal, info, context);
        // Without a handler the same access, done again, ends the program.
        sigaction(signal, &old, nullptr);
        return;
    }
    auto address = static_cast<unsigned char*>(info->si_addr);
    Allocation found{};
    {
        std::lock_guard<std::mutex> lock(allocations_lock);
        for (const Allocation& a : allocations)
            if (address >= a.map && address < a.map + a.mapped) found = a;
    }
    if (found.map) fail("%td bytes from the beginning of an allocation of %zu", address - found.begin, found.bytes);
    fail("%p is in no allocation (%zu bytes of shared memory at %p)", info->si_addr, shared_bytes, shared_memory);
}

/// What a thread of the calling program needs to run kernels.
struct Machine {
    Thread threads[MAX_THREADS] = {};
    char message[MESSAGE];
    sigjmp_buf failure;
    char signal_stack[64 << 10];
    /// The shared memory of the last launch: many in a row want as much.
    Allocation shared = {};

    ~Machine() {
        for (Thread& thread : threads)
            if (thread.stack) munmap(static_cast<char*>(thread.stack) - PAGE, STACK + PAGE);
        if (shared.map) munmap(shared.map, shared.mapped);
    }
};

// Kernels by name.

struct Kernel { const char* name; int threads; void (*run)(void**); std::vector<size_t> sizes; };
inline std::vector<Kernel>& kernels() {
    static std::vector<Kernel> all;
    return all;
}

template <auto F> struct Entry;
template <class... A, void (*F)(A...)> struct Entry<F> {
    template <size_t... I> static void call(void** arguments, std::index_sequence<I...>) {
        F(*static_cast<A*>(arguments[I])...);
    }
    static void run(void** arguments) { call(arguments, std::index_sequence_for<A...>()); }
    Entry(const char* name, int threads) { kernels().push_back({name, threads, run, {sizeof(A)...}}); }
};

// What instructions do.

struct Shuffle { uint64_t value; int from; };

/// Each lane gets the value of the lane that it names.
inline void shuffle(void* const* lanes, unsigned mask) {
    uint64_t values[WARP];
    for (int i = 0; i < WARP; i++)
        if (mask >> i & 1) values[i] = static_cast<Shuffle*>(lanes[i])->value;
    for (int i = 0; i < WARP; i++) {
        if (!(mask >> i & 1)) continue;
        auto* own = static_cast<Shuffle*>(lanes[i]);
        if (!(mask >> own->from & 1)) fail("a shuffle from lane %d, which is not in mask %08x", own->from, mask);
        own->value = values[own->from];
    }
}

inline float half_value(uint16_t bits) {
    _Float16 half;
    memcpy(&half, &bits, 2);
    return static_cast<float>(half);
}
inline uint16_t half_bits(float value) {
    _Float16 half = static_cast<_Float16>(value);
    uint16_t bits;
    memcpy(&bits, &half, 2);
    return bits;
}
inline const float* half_table() {
    static const std::vector<float> table = [] {
        std::vector<float> values(65536);
        for (unsigned i = 0; i < 65536; i++) values[i] = half_value(static_cast<uint16_t>(i));
        return values;
    }();
    return table.data();
}

struct Mma { float* d; const uint32_t *a, *b; };

/// A row of eight numbers, computed with at once; each has the sum of its own products, in their order.
typedef float Eight __attribute__((vector_size(32)));

/// d[16 x 8] += a[16 x 16] b[16 x 8]; lane 4 g + c holds rows g and g + 8 of a and d, column g of b.
inline void mma(void* const* lanes, unsigned) {
    const float* table = half_table();
    float a[16][16];
    Eight b[16], d[16];
    for (int lane = 0; lane < WARP; lane++) {
        const Mma& own = *static_cast<const Mma*>(lanes[lane]);
        int g = lane / 4, c = lane % 4;
        for (int i = 0; i < 4; i++)
            for (int e = 0; e < 2; e++)
                a[g + 8 * (i % 2)][2 * c + e + 8 * (i / 2)] = table[own.a[i] >> 16 * e & 0xffff];
        for (int i = 0; i < 2; i++)
            for (int e = 0; e < 2; e++) b[2 * c + e + 8 * i][g] = table[own.b[i] >> 16 * e & 0xffff];
    }
    for (int row = 0; row < 16; row++) {
        d[row] = Eight{};
        for (int k = 0; k < 16; k++) d[row] += a[row][k] * b[k];
    }
    for (int lane = 0; lane < WARP; lane++) {
        const Mma& own = *static_cast<const Mma*>(lanes[lane]);
        int g = lane / 4, c = lane % 4;
        for (int i = 0; i < 4; i++) own.d[i] += d[g + 8 * (i / 2)][2 * c + i % 2];
    }
}

struct Matrices { uint32_t* d; const void* row; };

/// Four 8 x 8 matrices of f16, lane 8 m + r names row r of matrix m; lane 4 g + c gets (g, 2 c) and (g, 2 c + 1).
template <bool TRANSPOSED> inline void load_matrices(void* const* lanes, unsigned) {
    for (int lane = 0; lane < WARP; lane++) {
        const Matrices& own = *static_cast<const Matrices*>(lanes[lane]);
        for (int m = 0; m < 4; m++) {
            uint16_t pair[2];
            for (int e = 0; e < 2; e++) {
                int row = lane / 4, column = 2 * (lane % 4) + e;
                if (TRANSPOSED) std::swap(row, column);
                const Matrices& owner = *static_cast<const Matrices*>(lanes[8 * m + row]);
                memcpy(&pair[e], static_cast<const char*>(owner.row) + 2 * column, 2);
            }
            own.d[m] = pair[0] | static_cast<uint32_t>(pair[1]) << 16;
        }
    }
}

inline void copy(const Copy& c) {
    memcpy(c.to, c.from, c.valid);
    memset(static_cast<char*>(c.to) + c.valid, 0, c.bytes - c.valid);
}

} // namespace emu

#define threadIdx (emu::current->index)
#define blockIdx (emu::block_index)
#define blockDim (emu::block_size)
#define gridDim (emu::grid_size)

inline void __syncthreads() { emu::barrier(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) {
    emu::together([](void* const*, unsigned) {}, nullptr, mask);
}
inline void __threadfence() {}

template <class T> inline T __shfl_sync(unsigned mask, T value, int from) {
    static_assert(sizeof(T) <= 8);
    emu::Shuffle own{0, from & (emu::WARP - 1)};
    memcpy(&own.value, &value, sizeof(T));
    emu::together(emu::shuffle, &own, mask);
    memcpy(&value, &own.value, sizeof(T));
    return value;
}
template <class T> inline T __shfl_xor_sync(unsigned mask, T value, int bits) {
    return __shfl_sync(mask, value, emu::current->lane ^ bits);
}

inline unsigned atomicAdd(unsigned* to, unsigned value) {
    unsigned old = *to;
    *to += value;
    return old;
}

inline int __dp4a(int a, int b, int c) {
    for (int i = 0; i < 4; i++) c += static_cast<int8_t>(a >> 8 * i) * static_cast<int8_t>(b >> 8 * i);
    return c;
}
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
    uint64_t both = a | static_cast<uint64_t>(b) << 32;
    unsigned out = 0;
    for (int i = 0; i < 4; i++) out |= static_cast<unsigned>(both >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
    return out;
}
inline unsigned __float_as_uint(float x) { unsigned u; memcpy(&u, &x, 4); return u; }
inline float __uint_as_float(unsigned u) { float x; memcpy(&x, &u, 4); return x; }
inline int __float2int_rn(float x) { return static_cast<int>(nearbyintf(x)); }
template <class T> inline T min(T a, T b) { return a < b ? a : b; }
template <class T> inline T max(T a, T b) { return a < b ? b : a; }
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float x) { return 1 / sqrtf(x); }
