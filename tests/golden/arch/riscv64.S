# Machine mode sets registers and enters supervisor mode at `loop`, with satp from `mode`.
# Loaded at 0x80000000 by -bios.
	.option norvc
_start:	li t0, -1
	csrw pmpaddr0, t0
	li t0, 0x1f
	csrw pmpcfg0, t0
	li t0, 0x6000			# floating point on
	csrs mstatus, t0
	la t1, mode
	ld t0, 0(t1)
	csrw satp, t0
	sfence.vma
	li t0, 0x1234567812345678
	csrw sscratch, t0
	li t0, 0x80000200
	csrw stvec, t0
	li t0, 0xdeadbeef00c0ffee
	fmv.d.x f1, t0
	csrr t1, mhartid
	bnez t1, machine		# the second vCPU stays in machine mode
	li t0, 0x1800
	csrc mstatus, t0
	li t0, 0x0800
	csrs mstatus, t0
	la t0, loop
	csrw mepc, t0
	li x1, 0x1111111111111111
	li x2, 0x2222222222222222
	li x3, 0x3333333333333333
	li x4, 0x4444444444444444
	li x10, 0xaaaaaaaaaaaaaaaa
	li x31, 0x3131313131313131
	mret
loop:	j loop
machine: j machine
	.org 0x1c0
mode:	.quad 0				# replaced by the tests
