/*
 * Numbers of the kernel's interface. They stand in linux/futex.h, linux/magic.h and linux/memfd.h too; but a C library need not
 * bring the kernel's headers along (musl-gcc sees none), and what is part of the interface never changes.
 */
#ifndef SHM_KERNEL_H
#define SHM_KERNEL_H

#ifndef FUTEX_WAIT
#define FUTEX_WAIT 0
#define FUTEX_WAKE 1
#endif
#ifndef TMPFS_MAGIC
#define TMPFS_MAGIC 0x01021994
#endif
#ifndef MFD_NOEXEC_SEAL /* Linux 6.3 */
#define MFD_NOEXEC_SEAL 0x0008U
#endif

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

#endif
