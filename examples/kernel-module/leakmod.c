/*
 * A kernel module that leaks when it is loaded, for `leaktrace --kernel`.
 *
 * Each of `count` rounds allocates two blocks of `size` bytes: one in keep_block, which is never
 * freed, and one in borrow_block, which is freed at once. Unloading the module frees nothing: the
 * blocks stay outstanding until the next boot.
 *
 *   insmod leakmod.ko count=50 size=1000
 */
#include <linux/module.h>
#include <linux/slab.h>

static unsigned int count = 50;
module_param(count, uint, 0444);
MODULE_PARM_DESC(count, "blocks to leak");

static unsigned int size = 1000;
module_param(size, uint, 0444);
MODULE_PARM_DESC(size, "bytes per block");

static noinline int keep_block(void) {
    void *block = kmalloc(size, GFP_KERNEL);

    OPTIMIZER_HIDE_VAR(block); /* keeps the call: not removed as unused, no tail call */
    return block ? 0 : -ENOMEM;
}

static noinline int borrow_block(void) {
    void *block = kmalloc(size, GFP_KERNEL);

    OPTIMIZER_HIDE_VAR(block);
    if (!block)
        return -ENOMEM;
    kfree(block);
    return 0;
}

static int __init leakmod_init(void) {
    for (unsigned int i = 0; i < count; i++) {
        int error = keep_block();

        if (!error)
            error = borrow_block();
        if (error)
            return error;
    }
    return 0;
}

static void __exit leakmod_exit(void) {}

module_init(leakmod_init);
module_exit(leakmod_exit);
MODULE_DESCRIPTION("Leaks kernel memory on purpose");
MODULE_LICENSE("GPL");
