import { Buffer } from 'node:buffer';
/** A client; not `export class Other {}`. */
export declare class Client<T extends object = {}> extends Base implements AsyncDisposable {
    #private;
    private readonly native;
    readonly revision: bigint;
    private constructor();
    /** Connects. */
    static connect(options: Options): Promise<Client>;
    watch<K>(key: string | Buffer, options?: {
        from?: bigint;
    }): AsyncIterable<(batch: K) => void>;
    close(): Promise<void>;
    [Symbol.asyncDispose](): Promise<void>;
}
export interface Options {
    ttl?: number;
    signal?: AbortSignal;
}
export declare class Drake extends Duck {
    colour: string;
}
declare class Hidden {
    secret(): void;
}
export { Duck, type Goose as Other } from './duck.js';
export declare const VERSION: string;
export declare function connect(url: string): Promise<Client>;
export {};
