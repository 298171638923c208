# A 64 KiB firmware for small golden images, so that no BIOS fills them.
#
# It enters 32-bit mode, writes known pages, says "R" on the first serial port
# and then halts; built with LIVE=1 it keeps dirtying pages instead, until an
# "s" arrives, on which it writes zeros over the pages at 5 MiB and says "Z".
#
# Symbols to define: LAST, address of the last page of low memory; LIVE.

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
.else
halt:
    hlt
    jmp halt
.endif

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
