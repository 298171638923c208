# A 64 KiB firmware for small golden images, so that no BIOS fills them.
#
# It enters 32-bit mode, writes known pages, says "R" on the first serial port
# and then halts; built with LIVE=1 it keeps dirtying pages instead, until an
# "s" arrives, on which it writes zeros over the pages at 5 MiB and says "Z".
#
# Built with VIRTIO_MEM=1 it has the virtio-mem device in slot 0x10 plug its 2 MiB
# blocks 1, 3 and 4 first.
#
# Symbols to define: LAST, address of the last page of low memory; LIVE; VIRTIO_MEM.

.set CODE, 0xf0000              # the copy of the firmware below 1 MiB
.code32
start32:
    mov $16, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $0x7000, %esp
    cld

# 64 pages at 1 MiB: a counting marker and the page's own address, the rest zero.
    mov $0x100000, %edi
    mov $0x45464153, %eax
    mov $64, %ecx
1:  mov %eax, (%edi)
    mov %edi, 8(%edi)
    inc %eax
    add $0x1000, %edi
    loop 1b

# 4 pages at 2 MiB: noise from a linear congruential generator.
    mov $0x200000, %edi
    mov $0x2545f491, %eax
    mov $4096, %ecx
1:  imul $1664525, %eax, %eax
    add $1013904223, %eax
    mov %eax, %edx
    rol $13, %edx
    mov %edx, (%edi)
    add $4, %edi
    loop 1b

# 24 pages at 3 MiB: one byte all over, another one for each page.
    mov $0x300000, %edi
    mov $0x01010101, %eax
    mov $24, %ebx
1:  mov $1024, %ecx
    rep stosl
    add $0x01010101, %eax
    dec %ebx
    jnz 1b

# 16 pages at 4 MiB and 16 at 5 MiB, for the live loop to work on.
    mov $0x400000, %edi
    mov $0x57a1e000, %eax
    mov $16384, %ecx
    rep stosl
    mov $0x500000, %edi
    mov $16384, %ecx
    rep stosl

# The very last byte of low memory.
    movb $0x5a, LAST + 0xfff

# Vector registers and general ones with recognisable contents.
    mov %cr4, %eax
    or $0x200, %eax
    mov %eax, %cr4
    movups CODE + pattern, %xmm3
    mov $0x11111111, %ebx
    mov $0x22222222, %ebp
    mov $0x33333333, %esi

.if VIRTIO_MEM
# Modern virtio over PCI, with the register offsets that QEMU always uses: the
# common ones at BAR 4, the device's own at + 0x2000, the doorbell at + 0x3000.
.set BAR, 0xfe000000
.set QUEUE, 0x10000             # descriptors; available, used, request, answer follow
.macro config register, value
    mov $0xcf8, %edx
    mov $0x80008000 + \register, %eax
    out %eax, %dx
    mov $0xcfc, %edx
    mov $\value, %eax
    out %eax, %dx
.endm
    config 0x20, BAR
    config 0x24, 0
    config 0x04, 6              # answer to memory accesses, be bus master
    mov $BAR, %edi
    movb $0, 0x14(%edi)         # reset
    movb $3, 0x14(%edi)         # seen, and driven
    movl $0, 8(%edi)
    movl $2, 0xc(%edi)          # unplugged memory is inaccessible
    movl $1, 8(%edi)
    movl $1, 0xc(%edi)          # virtio 1
    movb $0xb, 0x14(%edi)       # features settled
    movw $0, 0x16(%edi)
    movw $8, 0x18(%edi)
    movl $QUEUE, 0x20(%edi)
    movl $0, 0x24(%edi)
    movl $QUEUE + 0x100, 0x28(%edi)
    movl $0, 0x2c(%edi)
    movl $QUEUE + 0x200, 0x30(%edi)
    movl $0, 0x34(%edi)
    movw $1, 0x1c(%edi)
    movb $0xf, 0x14(%edi)       # ready
    movl $QUEUE + 0x300, QUEUE
    movl $24, QUEUE + 8
    movl $0x10001, QUEUE + 12   # goes on in descriptor 1
    movl $QUEUE + 0x400, QUEUE + 16
    movl $16, QUEUE + 24
    movl $2, QUEUE + 28         # for the device to write
    movw $1, QUEUE + 0x100      # no interrupts
.macro plug block, count, turn
    mov BAR + 0x2010, %eax
    add $\block << 21, %eax
    mov %eax, QUEUE + 0x308
    mov BAR + 0x2014, %eax
    mov %eax, QUEUE + 0x30c
    movw $\count, QUEUE + 0x310
    movw $\turn, QUEUE + 0x102
    movw $0, BAR + 0x3000
1:  cmpw $\turn, QUEUE + 0x202
    jne 1b
    cmpw $0, QUEUE + 0x400
    jne halt
.endm
    plug 1, 1, 1
    plug 3, 2, 2
.endif

    mov $0x3f8, %edx
    mov $'R', %al
    out %al, %dx
.if LIVE
# Count in every page at 4 MiB, and write the pages at 5 MiB while none said to stop.
    xor %ebp, %ebp
again:
    mov $0x400000, %edi
    mov $16, %ecx
1:  incl 0x40(%edi)
    add $0x1000, %edi
    loop 1b
    test %ebp, %ebp
    jnz again
    mov $0x500000, %edi
    mov $16, %ecx
1:  incl 0x80(%edi)
    add $0x1000, %edi
    loop 1b
    mov $0x3fd, %edx
    in %dx, %al
    test $1, %al
    jz again
    mov $0x3f8, %edx
    in %dx, %al
    cmp $'s', %al
    jne again
    inc %ebp
    mov $0x500000, %edi
    mov $16384, %ecx
    xor %eax, %eax
    rep stosl
    mov $0x3f8, %edx
    mov $'Z', %al
    out %al, %dx
    jmp again
.endif
halt:
    hlt
    jmp halt

.align 16
pattern:
    .ascii "sixteen bytes..."
gdt:
    .quad 0, 0x00cf9a000000ffff, 0x00cf92000000ffff
gdtr:
    .word gdtr - gdt - 1
    .long CODE + gdt

.code16
start16:
    cli
    lgdtl %cs:gdtr
    mov %cr0, %eax
    or $1, %eax
    mov %eax, %cr0
    ljmpl $8, $CODE + start32

.org 0xfff0
    jmp start16
.org 0x10000
