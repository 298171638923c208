// Firmware for an AArch64 guest ("virt", 16 MiB): page tables, markers, registers.
//
//   TTBR0 at 0x40100000: 39 bits, granule 4 KiB.  0 to 1 GiB is one page of 1 GiB; from
//   0x40000000 on there is a page of 2 MiB, then 64 of 4 KiB from 0x40200000 on.
//   TTBR1 at 0x40110000: 48 bits.  0xffff000000000000 is a page of 2 MiB at 0x40200000.
//   64 pages from 0x40200000 on hold a counting marker and their own address.
//
// llvm-mc -triple=aarch64 -filetype=obj -o virt.o virt.S
// llvm-objcopy -O binary -j .text virt.o virt.bin
.text
    ldr x1, =0x40200000
    ldr x2, =0x5341564546
    mov x3, #64
1:  str x2, [x1]
    str x1, [x1, #8]
    add x1, x1, #0x1000
    add x2, x2, #1
    subs x3, x3, #1
    b.ne 1b

.macro entry table, value
    ldr x4, =\table
    ldr x5, =\value
    str x5, [x4]
.endm
    entry 0x40100000, 0x701         // a block, accessed
    entry 0x40100008, 0x40101003    // a table
    entry 0x40101000, 0x40000701
    entry 0x40101008, 0x40102003
    ldr x4, =0x40102000
    ldr x5, =0x40200703             // a page
    mov x3, #64
2:  str x5, [x4], #8
    add x5, x5, #0x1000
    subs x3, x3, #1
    b.ne 2b
    entry 0x40110000, 0x40111003
    entry 0x40111000, 0x40112003
    entry 0x40112000, 0x40200701

    ldr x6, =0x44ff
    msr mair_el1, x6
    ldr x6, =0x40100000
    msr ttbr0_el1, x6
    ldr x6, =0x40110000
    msr ttbr1_el1, x6
    ldr x6, =0x0000000280100019     // IPS 40 bits, TG1 and TG0 4 KiB, T1SZ 16, T0SZ 25
    msr tcr_el1, x6
    isb
    mrs x6, sctlr_el1
    orr x6, x6, #1
    msr sctlr_el1, x6
    isb
    mov x6, #(3 << 20)
    msr cpacr_el1, x6
    isb

    ldr x7, =0x7777777777777777
    fmov d3, x7
    ldr x8, =0x8888888888888888
    ldr x30, =0x3030303030303030
    ldr x9, =0x40280000
    mov sp, x9
    ldr x10, =0x09000000            // the serial port
    mov w11, #'R'
    str w11, [x10]
3:  wfi
    b 3b
