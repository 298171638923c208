# Sets registers, turns paging on as the words at the end say, and stays at `loop`.
# Loaded at 0x40200000 by -device loader.
	.arch armv7-a
	.fpu neon
_start:	mrc p15,0,r0,c1,c0,2
	orr r0,r0,#0xf00000
	mcr p15,0,r0,c1,c0,2
	mov r0,#0x40000000
	vmsr fpexc,r0
	ldr r0,=0x40300000
	mcr p15,0,r0,c2,c0,0		@ TTBR0
	ldr r0,=0x40310000
	mcr p15,0,r0,c2,c0,1		@ TTBR1
	ldr r0,control
	mcr p15,0,r0,c2,c0,2		@ TTBCR
	mov r0,#-1
	mcr p15,0,r0,c3,c0,0		@ no domain is checked
	ldr r0,=0x12345678
	mcr p15,0,r0,c13,c0,3
	ldr r0,=0x89abcdef
	ldr r1,=0x01234567
	vmov d1,r0,r1
	vmov d31,r1,r0
	ldr r2,sctlr
	mrc p15,0,r0,c1,c0,0
	orr r0,r0,r2
	mov r1,#0x34
	mov r2,#0x22
	ldr r13,=0x13131313
	ldr r14,=0x14141414
	mov r7,#0x77
	mcr p15,0,r0,c1,c0,0
	mov r0,#0x12
loop:	b loop
	.ltorg
	.org 0x100
control: .word 0			@ replaced by the tests, as is the next
sctlr:	.word 0
