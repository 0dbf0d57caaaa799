/*
 * The few kernel types that sealane's BPF programs look into. Only names count: preserve_access_index makes libbpf look
 * each field up in the running kernel's own type information and patch its offset and size (CO-RE), so the order, the
 * omissions and the layout here do not matter. A vmlinux.h made from the build machine's kernel would be 2.8 MB and would
 * make the build depend on it.
 *
 * Integer types and constants are user-space ABI (include/uapi/linux/bpf.h, asm/posix_types.h) and never change; they are
 * not taken from <linux/bpf.h> since that pulls in asm/ headers of one architecture, which a -target bpf build has not.
 */
#ifndef BPF_VMLINUX_MIN_H
#define BPF_VMLINUX_MIN_H

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef signed char __s8;
typedef short __s16;
typedef int __s32;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;

enum {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_RINGBUF = 27,
	BPF_MAP_TYPE_TASK_STORAGE = 29,
};

enum { BPF_ANY = 0, BPF_NOEXIST = 1 };
enum { BPF_F_NO_PREALLOC = 1 };

struct sock; /* passed on, never looked into */

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct super_block {
	__u32 s_dev;
};

struct inode {
	struct super_block *i_sb;
	unsigned long i_ino;
};

struct dentry {
	struct inode *d_inode;
};

struct path {
	struct dentry *dentry;
};

struct unix_sock {
	struct path path;
};

struct task_struct {
	struct task_struct *real_parent;
};

#pragma clang attribute pop

#endif
