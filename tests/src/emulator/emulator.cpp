// The kernels' own text under the emulator, and what a test calls: memory, kernels by name, launches.

#include "emulator.h"

#include KERNELS

/// Memory for a kernel of an emulator, filled with NaN; null where there is none.
extern "C" void* emu_allocate(size_t bytes, size_t owner) {
    std::lock_guard<std::mutex> lock(emu::allocations_lock);
    emu::Allocation a = emu::guarded(bytes, owner);
    if (a.map) emu::allocations.push_back(a);
    return a.begin;
}

/// Gives memory back; 0, or 1 where its end was written over or it is unknown.
extern "C" int emu_free(void* begin) {
    std::lock_guard<std::mutex> lock(emu::allocations_lock);
    for (size_t i = 0; i < emu::allocations.size(); i++) {
        emu::Allocation a = emu::allocations[i];
        if (a.begin != begin) continue;
        emu::allocations.erase(emu::allocations.begin() + i);
        int damaged = !emu::intact(a);
        munmap(a.map, a.mapped);
        return damaged;
    }
    return 1;
}

/// Name of kernel `i`; null behind the last.
extern "C" const char* emu_name(size_t i) {
    return i < emu::kernels().size() ? emu::kernels()[i].name : nullptr;
}

/// Threads of a block of kernel `i`, as its launch bounds say.
extern "C" int emu_threads(size_t i) { return emu::kernels()[i].threads; }

/// Number of arguments of kernel `i`.
extern "C" size_t emu_arguments(size_t i) { return emu::kernels()[i].sizes.size(); }

/// Bytes of argument `a` of kernel `i`.
extern "C" size_t emu_argument_bytes(size_t i, size_t a) { return emu::kernels()[i].sizes[a]; }

static __thread void** launch_arguments;
static __thread void (*launch_entry)(void**);
static thread_local std::unique_ptr<emu::Machine> machine;

/// Takes over the signals of bad accesses, once; what comes from elsewhere goes on to whoever had them.
static void handle_faults() {
    static std::once_flag once;
    std::call_once(once, [] {
        struct sigaction action = {};
        action.sa_sigaction = emu::faulted;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
        sigaction(SIGSEGV, &action, &emu::old_segv);
        sigaction(SIGBUS, &action, &emu::old_bus);
    });
}

/// Shared memory of this many bytes.
static const emu::Allocation& shared_memory(size_t bytes) {
    emu::Allocation& a = machine->shared;
    if (!a.map || a.bytes != bytes) {
        if (a.map) munmap(a.map, a.mapped);
        a = emu::guarded(bytes, 0);
    }
    return a;
}

/// Runs kernel `i` for an emulator; null, or what went wrong, which stays until the next launch of this thread.
///
/// order: 0 as they come, 1 the other way round, more: a seed. Asynchronous copies happen at once in 0, else at the last moment.
extern "C" const char* emu_launch(size_t i, const unsigned* grid, const unsigned* block, size_t shared, void** arguments,
                                  unsigned order, size_t owner) {
    if (!machine) machine = std::make_unique<emu::Machine>();
    const emu::Kernel& kernel = emu::kernels()[i];
    unsigned count = block[0] * block[1] * block[2];
    emu::threads = machine->threads;
    emu::message = machine->message;
    emu::kernel_name = kernel.name;
    emu::grid_size = {grid[0], grid[1], grid[2]};
    emu::block_size = {block[0], block[1], block[2]};
    emu::block_index = {0, 0, 0};
    emu::current = nullptr;
    emu::order = {order * 2654435761u, order == 1, order > 1, order > 0};
    launch_arguments = arguments;
    launch_entry = kernel.run;
    emu::body = [] { launch_entry(launch_arguments); };

    handle_faults();
    stack_t stack = {}, old_stack;
    stack.ss_sp = machine->signal_stack;
    stack.ss_size = sizeof machine->signal_stack;
    sigaltstack(&stack, &old_stack);
    const emu::Allocation memory = shared_memory(shared);
    emu::shared_memory = memory.begin;
    emu::shared_bytes = shared;
    const char* volatile answer = nullptr;
    emu::failure = &machine->failure;
    if (!sigsetjmp(machine->failure, 1)) {
        if (kernel.threads != static_cast<int>(count)) emu::fail("a block of %u threads; it is made for %d", count, kernel.threads);
        if (grid[1] > 65535 || grid[2] > 65535 || !grid[0] || !grid[1] || !grid[2] || grid[0] > 0x7fffffff)
            emu::fail("a grid of %u x %u x %u blocks", grid[0], grid[1], grid[2]);
        for (unsigned t = 0; t < count; t++) {
            emu::threads[t].number = t;
            emu::threads[t].lane = t % emu::WARP;
            emu::threads[t].index = {t % block[0], t / block[0] % block[1], t / (block[0] * block[1])};
        }
        unsigned blocks = grid[0] * grid[1] * grid[2];
        for (unsigned b = 0; b < blocks; b++) {
            unsigned at = emu::place(b, blocks);
            emu::block_index = {at % grid[0], at / grid[0] % grid[1], at / (grid[0] * grid[1])};
            // What was not written is NaN and true, or else zero and false.
            memset(memory.begin, order == 1 ? 0 : 0xff, shared);
            emu::run_block(count);
            emu::current = nullptr;
            if (!emu::intact(memory)) emu::fail("shared memory was written behind its %zu bytes", shared);
        }
        size_t damaged = 0;
        {
            std::lock_guard<std::mutex> lock(emu::allocations_lock);
            for (const emu::Allocation& a : emu::allocations)
                if (a.owner == owner && !emu::intact(a)) damaged = a.bytes;
        }
        if (damaged) emu::fail("an allocation was written behind its %zu bytes", damaged);
    } else {
        answer = emu::message;
    }
    emu::failure = nullptr;
    emu::current = nullptr;
    sigaltstack(&old_stack, nullptr);
    return answer;
}
